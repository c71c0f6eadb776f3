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
