export const $ = (id) => document.getElementById(id);

/** Touches only what is to be another text: screen readers would say it again. */
export const put = (id, text) => {
  const element = $(id);
  if (element.textContent !== String(text)) element.textContent = text;
};
