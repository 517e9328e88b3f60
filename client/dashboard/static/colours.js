// Light or dark, as the visitor chose on an earlier page. It runs before anything is painted, so that
// no page flashes in the other colours. keys.js has the button.
"use strict";
(() => {
  try {
    const chosen = localStorage.getItem("colours");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.colours = chosen;
  } catch {
    // a browser that keeps nothing shows the system's colours
  }
})();
