// Numbers as the rest of the page writes them (formatting.py).
const signed = (value, digits) => {
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text;
  return (value < 0 ? "−" : "+") + text;
};

const percent = (share) => {
  if (share >= 0.9995 && share < 1) return "> 99.9 %";
  if (share > 0 && share < 0.0005) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
};

const probabilityText = (probability) => percent(Math.min(Math.max(probability, 1e-9), 1 - 1e-9));

// A value beside others that go up to `limit`: three digits of the largest.
const valueText = (value, limit) => {
  const digits = 2 - Math.floor(Math.log10(limit));
  if (digits <= 6) return signed(value, Math.max(0, digits));
  if (value === 0) return "0";
  const [mantissa, exponent] = Math.abs(value).toExponential(1).split("e");
  const power = [...exponent].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)] ?? "").join("");
  return `${value < 0 ? "−" : "+"}${mantissa} × 10${power}`;
};
