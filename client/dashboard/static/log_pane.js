// Shows a log as it comes: what the events of a log say (client/logs/live_logs.py), as text only.
// What a page keeps of a log that grows. What goes is said where it was; a finished log is served whole.
const lines_max = 20000;
const pieces_max = 20000;
const block_lines = 100;  // laid out together, when near the screen
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
    this.forget();
    // what the server sent with the page is the first block
    if (this.is_begun) {
      const nodes = [...log.childNodes];
      this.add_block().append(...nodes);
      this.blocks[0].lines = log.textContent.split("\n").length - 1;
      this.blocks[0].pieces = this.pieces = nodes.length;
      this.lines = this.blocks[0].lines;
    }
  }

  forget() {
    this.blocks = [];
    this.lines = 0;
    this.pieces = 0;
    this.lines_gone = 0;
    this.note = null;
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
      this.forget();
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
    while (text) {
      let block = this.blocks.at(-1);
      if (!block || block.lines >= block_lines) {
        this.add_block();
        block = this.blocks.at(-1);
      }
      let end = 0;
      let lines = block.lines;
      while (end < text.length && lines < block_lines) {
        const found = text.indexOf("\n", end);
        if (found >= 0) lines += 1;
        end = found >= 0 ? found + 1 : text.length;
      }
      const piece = document.createElement("span");
      piece.textContent = text.slice(0, end);
      piece.className = classes;
      block.element.append(piece);
      this.lines += lines - block.lines;
      block.lines = lines;
      block.pieces += 1;
      this.pieces += 1;
      text = text.slice(end);
    }
    this.drop_oldest();
  }

  add_block() {
    const element = document.createElement("span");
    element.className = "lines";
    this.log.append(element);
    this.blocks.push({element, lines: 0, pieces: 0});
    return element;
  }

  drop_oldest() {
    let is_less = false;
    while (this.blocks.length > 1 && (this.lines > lines_max || this.pieces > pieces_max)) {
      const {element, lines, pieces} = this.blocks.shift();
      element.remove();
      this.lines -= lines;
      this.pieces -= pieces;
      this.lines_gone += lines;
      is_less = true;
    }
    // a line without an end
    const [first] = this.blocks;
    while (this.pieces > pieces_max) {
      first.element.firstChild.remove();
      first.pieces -= 1;
      this.pieces -= 1;
      is_less = true;
    }
    if (!is_less) return;
    if (!this.note) {
      this.note = document.createElement("span");
      this.note.className = "log-note";
      this.log.prepend(this.note);
    }
    this.note.textContent = `[${this.lines_gone} lines before this one are not shown while the log grows]\n`;
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
