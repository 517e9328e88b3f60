// The page of one log: follows it.
import {LogPane, follow} from "./log_pane.js";

const log = document.getElementById("log");
const state = document.getElementById("log-state");
const pane = new LogPane(log, state, document.scrollingElement);

// A page that was hidden comes back with the last id in the address: it has no header of its own.
const address = (last) => last ? `${log.dataset.events}?last=${encodeURIComponent(last)}` : log.dataset.events;
follow(
  address,
  (kind, data) => {
    pane.take(kind, data);
    return !pane.is_ended;
  },
  (text) => pane.say(text),
);
