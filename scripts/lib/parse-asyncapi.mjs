// Reads an AsyncAPI document with the reference parser, prints what it finds, and fails on an error or
// a warning. Arguments: the folder of the parser, and the document.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [folder, file] = process.argv.slice(2);
const { Parser } = createRequire(`${folder}/package.json`)("@asyncapi/parser");
const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"));
const names = ["error", "warning", "information", "hint"];
for (const { severity, path, message } of diagnostics) {
    console.log(`${names[severity]}: ${path.join(".")}: ${message}`);
}
const serious = diagnostics.filter(({ severity }) => severity < 2);
const count = (all) => [...all].length;
console.log(document === undefined ? "asyncapi: cannot be read" : "asyncapi: "
    + `${count(document.channels())} channels, ${count(document.operations())} operations, `
    + `${count(document.messages())} messages; ${serious.length} errors and warnings`);
process.exit(document === undefined || serious.length > 0 ? 1 : 0);
