// A build's page: follows the replicas' logs in their columns, and offers to copy commands.
import {LogPane, follow} from "./log_pane.js";

const columns = document.getElementById("replicas");
const panes = new Map();
const positions = [];
for (const column of columns.querySelectorAll(".replica")) {
  const log = column.querySelector("pre[data-replica]");
  if (!log) {
    // another column shows the same log
    positions.push("-");
    continue;
  }
  const pane = new LogPane(log, log.closest(".tail").querySelector(".tail-state"), log);
  panes.set(log.dataset.replica, pane);
  pane.to_end();
  // "-": it is complete as it is
  positions.push(log.dataset.at ?? "-");
  pane.is_ended = log.dataset.at === undefined;
}
const growing = () => [...panes.values()].filter((pane) => !pane.is_ended);

if (growing().length) {
  follow(
    (last) => `${columns.dataset.events}?at=${encodeURIComponent(last || positions.join(","))}`,
    (kind, data) => {
      const pane = panes.get(data.replica);
      pane.take(kind, data);
      // one that came to nothing is the server's to show, should it come later
      if (pane.is_ended && !pane.log.textContent) pane.log.closest("[data-keep]").removeAttribute("data-keep");
      return growing().length > 0;
    },
    (text) => { for (const pane of growing()) pane.say(text); },
  );
}

// --- commands to copy; without this, or where a browser forbids it, they can be selected ---------

const add_copy_buttons = () => {
  if (!navigator.clipboard) return;
  for (const text of document.querySelectorAll("[data-copy]")) {
    if (text.nextElementSibling?.classList.contains("copy")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "The browser forbids it: select the text";
      }
    });
    text.after(button);
  }
};
document.addEventListener("renewed", add_copy_buttons);
add_copy_buttons();
