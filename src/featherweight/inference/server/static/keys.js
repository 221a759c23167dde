// Shortcuts, for the sheet alone: a key that means something where the focus is must not also
// change the drawing.

// `actions` has a function for each key, and `undo` and `redo` for Ctrl-Z and its kin.
export function takeKeys(sheet, actions) {
  document.addEventListener("keydown", (event) => {
    if (![document.body, sheet].includes(document.activeElement) || event.altKey) return;
    const key = event.key.toLowerCase(), command = event.ctrlKey || event.metaKey;
    const again = command && (key === "y" || (key === "z" && event.shiftKey));
    const action = again ? actions.redo
      : command ? key === "z" && actions.undo
        : key.length === 1 || key === "delete" ? actions[key] : null;
    if (!action) return;
    event.preventDefault();
    action();
  });
}
