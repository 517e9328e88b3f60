// Follows a log: server-sent events into the page, as text only. The browser comes back by itself
// after a lost connection, and says the last event's id, so nothing is missed and nothing doubled.
"use strict";
(() => {
  const log = document.getElementById("log");
  const state = document.getElementById("log-state");
  const pieces_max = 20000;  // of a long log a page keeps the newest; all of it is in the archive
  const source = new EventSource(log.dataset.events);
  let begun = false;

  const is_at_end = () => window.innerHeight + window.scrollY >= document.body.offsetHeight - 80;
  const append = (text, classes) => {
    const piece = document.createElement("span");
    piece.textContent = text;
    piece.className = classes;
    log.append(piece);
    while (log.childElementCount > pieces_max) log.firstElementChild.remove();
  };
  const on = (kind, action) => source.addEventListener(kind, (event) => {
    const follows = is_at_end();
    action(JSON.parse(event.data));
    if (follows && begun) window.scrollTo(0, document.body.scrollHeight);
    begun = true;
  });

  source.addEventListener("open", () => { state.textContent = "Following"; });
  source.addEventListener("error", () => {
    state.textContent = source.readyState === EventSource.CLOSED
      ? "The log cannot be followed now; load this page again" : "Connection lost, coming back";
  });
  on("output", (data) => {
    state.textContent = `Following, ${data.next} bytes`;
    for (const [style, text] of data.spans) append(text, style.map((name) => `sgr-${name}`).join(" "));
  });
  on("dropped", (data) => append(`\n[${data.end - data.first} bytes were not kept]\n`, "log-note"));
  on("restart", () => {
    log.replaceChildren();
    append("[the replica was started again and begins anew]\n", "log-note");
  });
  on("state", (data) => { state.textContent = data.text; });
  on("end", (data) => {
    source.close();
    state.textContent = `Ended: ${data.text}`;
  });
})();
