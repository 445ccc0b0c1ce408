// JSON whose prices and amounts stay exact.

// Numbers of these fields are read as text: an amount may have more digits than a double holds, and
// a price is compared and sent back as it was received. The quotes around a name that stands inside
// a string are escaped, so this matches only names of fields.
const EXACT =
  /"(\w+_cents|new_balance|odd_value|price|line|homeOdd|drawOdd|awayOdd)":\s*(-?\d[\d.eE+-]*)/g;

/** Parses JSON; prices, lines and amounts become text. */
export function parseExact(text) {
  return JSON.parse(text.replace(EXACT, '"$1":"$2"'));
}
