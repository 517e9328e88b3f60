// A build's page: follows the replicas' logs in their columns.
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
