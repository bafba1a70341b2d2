// A viewer in a frame tells how tall it is.
addEventListener('message', ({ source, data }) => {
  const frame = [...document.querySelectorAll('.output-frame')].find((f) => f.contentWindow === source);
  if (frame && data.height > 0) frame.style.height = `${Math.ceil(data.height) + 4}px`;
});
