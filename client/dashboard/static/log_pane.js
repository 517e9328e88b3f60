// Shows a log as it comes: what the events of a log say (client/logs/live_logs.py), as text only.
const pieces_max = 20000;  // of a long log a page keeps the newest; all of it is in the archive
const near_end_pixels = 80;
const again_seconds = 5;  // until a stream that was refused is asked for again

// log: the element for the text. state: the one for a line on how far it is. scroller: what has to
// be scrolled to see the log's end: the element itself, or the document.
export class LogPane {
  constructor(log, state, scroller) {
    this.log = log;
    this.state = state;
    this.scroller = scroller;
    this.is_begun = log.childNodes.length > 0;
    this.is_ended = false;
  }

  take(kind, data) {
    const box = this.scroller;
    const is_at_end = box.scrollTop + box.clientHeight >= box.scrollHeight - near_end_pixels;
    if (kind === "output") {
      this.say(`Following, ${data.next} bytes`);
      for (const [style, text] of data.spans) {
        this.append(text, style.map((name) => `sgr-${name}`).join(" "));
      }
    } else if (kind === "dropped") {
      this.append(`\n[${data.end - data.first} bytes were not kept]\n`, "log-note");
    } else if (kind === "restart") {
      this.log.replaceChildren();
      this.append("[the replica was started again and begins anew]\n", "log-note");
    } else if (kind === "end") {
      this.is_ended = true;
      this.say(`Ended: ${data.text}`);
    } else {
      this.say(data.text);
    }
    if (is_at_end && this.is_begun) this.to_end();
    this.is_begun = true;
  }

  to_end() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  say(text) {
    this.state.textContent = text;
  }

  append(text, classes) {
    const piece = document.createElement("span");
    piece.textContent = text;
    piece.className = classes;
    this.log.append(piece);
    while (this.log.childElementCount > pieces_max) this.log.firstElementChild.remove();
  }
}

const kinds = ["output", "dropped", "restart", "state", "end"];

// Follows server-sent events while the page is seen: a browser has few connections to one host.
// The browser comes back by itself after a lost connection, and says the last event's id, so
// nothing is missed and nothing doubled; after the page was hidden, `address` gets that id.
// take(kind, data) says whether there is more to come; say(text) is told how the connection is.
export const follow = (address, take, say) => {
  let source = null;
  let timer = null;
  let last = "";
  let is_over = false;

  const stop = () => {
    clearTimeout(timer);
    if (source) source.close();
    source = null;
  };
  const start = () => {
    if (source || is_over) return;
    source = new EventSource(address(last));
    source.addEventListener("open", () => say("Following"));
    source.addEventListener("error", () => {
      if (source.readyState !== EventSource.CLOSED) {
        say("Connection lost, coming back");
        return;
      }
      // after an answer that is no stream (too many follow already) a browser does not come back
      say("Cannot be followed now, trying again");
      stop();
      timer = setTimeout(start, 1000 * again_seconds);
    });
    for (const kind of kinds) {
      source.addEventListener(kind, (event) => {
        last = event.lastEventId;
        if (take(kind, JSON.parse(event.data))) return;
        is_over = true;
        stop();
      });
    }
  };
  document.addEventListener("visibilitychange", () => document.hidden ? stop() : start());
  addEventListener("pagehide", stop);
  addEventListener("pageshow", start);
  if (!document.hidden) start();
};
