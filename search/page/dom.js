// Elements without HTML text: what people and files say is only ever set as text or attribute.

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Return a new HTML element. attributes: those of null are left out. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Return a new SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** Return the element of the page with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Show a picture that may fail to come (a busy server): tried again a few times, ever later. */
export function showPicture(image, address) {
  let tries = 0;
  image.addEventListener("error", () => {
    if (++tries < 6) setTimeout(() => (image.src = address), 500 * 2 ** tries);
  });
  image.src = address;
}

/** Return a dot of a colour; null: of none. */
export function dot(colour) {
  const made = element("span", { class: "dot" });
  if (colour) made.style.setProperty("--colour", colour);
  return made;
}

/** Show which of some buttons are pressed. */
export function press(buttons, isPressed) {
  for (const button of buttons) button.setAttribute("aria-pressed", String(isPressed(button)));
}

/** Have an action done with each file that is chosen in an input, the same one again too. */
export function onFile(input, action) {
  input.addEventListener("change", () => {
    if (input.files[0]) action(input.files[0]);
    input.value = "";
  });
}

/** Return the moves of a pointer that an event stands for. */
export function movesOf(event) {
  const events = event.getCoalescedEvents?.() ?? [];
  return events.length ? events : [event];
}
