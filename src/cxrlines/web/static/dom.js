// Elements made from JavaScript: text is never parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element with attributes (`onclick` and the like are listeners) and children. */
export const h = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);

/** The same of SVG. */
export const s = (name, attributes = {}, ...children) => filled(document.createElementNS(SVG, name), attributes, children);

export const $ = (id) => document.getElementById(id);

export const capital = (text) => text[0].toUpperCase() + text.slice(1);

/** Say something to a screen reader. */
export function say(text) {
  $("live").textContent = text;
}

/** Give a file to the person. */
export function download(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
