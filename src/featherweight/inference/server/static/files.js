// Pictures from elsewhere: a file, a photograph, the clipboard, a file that is dropped.

const byId = (id) => document.getElementById(id);

// Call `use(bitmap)` with each picture, and `refuse(message)` with what is none.
export function takeFiles(use, refuse) {
  async function take(blob) {
    if (!blob) return;
    let bitmap;
    try {
      bitmap = await createImageBitmap(blob);
    } catch {
      refuse("This file is not a picture that the browser can show.");
      return;
    }
    use(bitmap);
  }

  for (const [button, input] of [["open", "file"], ["camera", "photo"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", (event) => {
      take(event.target.files[0]);
      event.target.value = ""; // so that the same file can be opened again
    });
  }
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (file) {
      event.preventDefault();
      take(file);
    }
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("drop");
  });
  document.addEventListener("dragleave", () => document.body.classList.remove("drop"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("drop");
    take(event.dataTransfer.files[0]);
  });
}
