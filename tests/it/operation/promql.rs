//! Finds the metrics that a PromQL expression uses. This is not a parser of the language, which
//! promtool is: it only finds the selectors.

/// Label, operator and value.
pub type Matcher = (String, String, String);

/// A metric used by an expression, with its matchers.
#[derive(Debug, PartialEq)]
pub struct Selector {
    pub name: String,
    pub matchers: Vec<Matcher>,
}

/// Words that are neither metrics nor followed by labels in parentheses.
const WORDS: &[&str] = &[
    "and", "or", "unless", "bool", "offset", "atan2", "inf", "nan",
];
/// Words that are followed by a list of labels.
const LABELLED: &[&str] = &[
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];

/// Every selector of an expression.
pub fn selectors(expression: &str) -> Result<Vec<Selector>, String> {
    let mut found = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '"' | '\'' | '`' => string(rest)?.1,
            '[' => rest_after(rest, ']')?,
            '{' => return Err(format!("a selector without a name: {rest}")),
            '0'..='9' | '$' => {
                rest[1..].trim_start_matches(|letter: char| is_name(letter) || letter == '.')
            }
            _ if is_name(first) => {
                let (name, after) = split(rest, is_name);
                word(name, after, &mut found)?
            }
            _ => &rest[first.len_utf8()..],
        }
        .trim_start();
    }
    Ok(found)
}

/// Consumes a name and its matchers; returns the rest.
fn word<'a>(name: &str, after: &'a str, found: &mut Vec<Selector>) -> Result<&'a str, String> {
    let after = after.trim_start();
    let lower = name.to_lowercase();
    if LABELLED.contains(&lower.as_str()) {
        return if after.starts_with('(') {
            rest_after(after, ')')
        } else {
            Ok(after)
        };
    }
    // A function or an aggregation: its argument follows, possibly after a list of labels.
    if WORDS.contains(&lower.as_str()) || after.starts_with('(') || begins_with_labels(after) {
        return Ok(after);
    }
    let (matchers, after) = match after.strip_prefix('{') {
        Some(labels) => matchers(labels)?,
        None => (Vec::new(), after),
    };
    found.push(Selector {
        name: name.to_owned(),
        matchers,
    });
    Ok(after)
}

/// `by (…)` and `without (…)` may appear between an aggregation and its parenthesis, and nowhere
/// else after a name.
fn begins_with_labels(after: &str) -> bool {
    ["by", "without"].iter().any(|word| {
        let labels = after.strip_prefix(word).map(str::trim_start);
        labels.is_some_and(|labels| labels.starts_with('('))
    })
}

/// Matchers up to the closing brace, and the rest.
fn matchers(text: &str) -> Result<(Vec<Matcher>, &str), String> {
    let mut matchers = Vec::new();
    let mut rest = text.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((matchers, after));
        }
        let (label, after) = split(rest, is_name);
        let (operator, after) = split(after.trim_start(), |letter| "=!~".contains(letter));
        let (value, after) = string(after.trim_start())?;
        matchers.push((label.to_owned(), operator.to_owned(), value.to_owned()));
        rest = after.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
}

/// A quoted string, and the rest.
fn string(text: &str) -> Result<(&str, &str), String> {
    let quote = text.chars().next().filter(|first| "\"'`".contains(*first));
    let quote = quote.ok_or_else(|| format!("no string: {text}"))?;
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quote != '`' => escaped = true,
            _ if letter == quote => return Ok((&text[1..at], &text[at + 1..])),
            _ => {}
        }
    }
    Err(format!("no end of the string: {text}"))
}

fn rest_after(text: &str, end: char) -> Result<&str, String> {
    text.split_once(end)
        .map(|(_, rest)| rest)
        .ok_or_else(|| format!("no {end} in {text}"))
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|letter| !belongs(letter)).unwrap_or(text.len()))
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'
}
