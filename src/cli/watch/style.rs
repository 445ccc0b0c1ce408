//! Text style: the capabilities of the terminal and the locale.

use std::borrow::Cow;
use std::fmt::Write;

/// Indent of continuation lines.
const INDENT: &str = "    ";

/// The capabilities of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Style {
    /// Whether to print colour escape codes.
    pub colour: bool,
    /// Whether to print ASCII only.
    pub ascii: bool,
    /// Whether to wrap long lines: on a terminal, which would otherwise break them within a word.
    pub folds: bool,
}

impl Style {
    /// Reads the style from the environment; `variable` looks up a variable.
    pub(crate) fn of(is_terminal: bool, variable: &dyn Fn(&str) -> Option<String>) -> Style {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let is_dumb = set("TERM").is_none_or(|term| term == "dumb");
        // The first variable that is set wins; if none is set, the locale is C.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|name| set(name))
            .unwrap_or_default();
        let locale = locale.to_ascii_lowercase();
        Style {
            colour: is_terminal && !is_dumb && set("NO_COLOR").is_none(),
            ascii: !(locale.contains("utf-8") || locale.contains("utf8")),
            folds: is_terminal,
        }
    }

    /// The columns of a line, or `None` if lines are not wrapped. Queried for each line, because a
    /// terminal can be resized.
    pub(crate) fn width(self) -> Option<usize> {
        let size = self
            .folds
            .then(|| terminal_size::terminal_size_of(std::io::stdout()))
            .flatten();
        size.map(|(width, _)| usize::from(width.0))
    }

    /// Converts human-readable text.
    pub(crate) fn text(self, text: &str) -> Cow<'_, str> {
        if !self.ascii || text.is_ascii() {
            return Cow::Borrowed(text);
        }
        let ascii = |letter: char| match letter {
            '\u{25b2}' => '^',
            '\u{25bc}' => 'v',
            letter if letter.is_ascii() => letter,
            _ => '?',
        };
        Cow::Owned(text.chars().map(ascii).collect())
    }

    /// Converts JSON text by escaping non-ASCII characters, which only occur within strings.
    pub(crate) fn json(self, json: &str) -> Cow<'_, str> {
        if !self.ascii || json.is_ascii() {
            return Cow::Borrowed(json);
        }
        let mut escaped = String::with_capacity(json.len() * 2);
        for letter in json.chars() {
            if letter.is_ascii() {
                escaped.push(letter);
                continue;
            }
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
        Cow::Owned(escaped)
    }
}

/// Joins the parts of a line, each after its separator. If the line is wider than `width`, it wraps
/// between two parts.
pub(crate) fn fold(parts: &[(&str, String)], width: Option<usize>) -> String {
    let mut text = String::new();
    let mut used = 0;
    for (separator, part) in parts {
        let gap = separator.chars().count();
        let columns = columns(part);
        if used > 0 && width.is_some_and(|width| used + gap + columns > width) {
            text.push('\n');
            text.push_str(INDENT);
            used = INDENT.len();
        } else if used > 0 {
            text.push_str(separator);
            used += gap;
        }
        text.push_str(part);
        used += columns;
    }
    text
}

/// The width of a text in columns, without escape codes.
fn columns(text: &str) -> usize {
    let mut rest = text;
    let mut columns = 0;
    while let Some((before, code)) = rest.split_once('\u{1b}') {
        columns += before.chars().count();
        rest = code.split_once('m').map_or("", |(_, rest)| rest);
    }
    columns + rest.chars().count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn style(is_terminal: bool, variables: &[(&str, &str)]) -> Style {
        Style::of(is_terminal, &|name| {
            variables
                .iter()
                .find(|(other, _)| *other == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn colours_need_capable_terminal() {
        let colour = |is_terminal, variables: &[(&str, &str)]| style(is_terminal, variables).colour;
        assert!(
            colour(true, &[("TERM", "xterm")])
                && colour(true, &[("TERM", "xterm"), ("NO_COLOR", "")])
        );
        assert!(
            !colour(false, &[("TERM", "xterm")])
                && !colour(true, &[("TERM", "xterm"), ("NO_COLOR", "1")])
        );
        assert!(!colour(true, &[("TERM", "dumb")]) && !colour(true, &[]));
    }

    #[test]
    fn locale_selects_ascii() {
        for (variables, ascii) in [
            (&[("LANG", "C.UTF-8")][..], false),
            (&[("LANG", "pt_BR.utf8")], false),
            (&[("LANG", "C")], true),
            (&[("LANG", "pt_BR.UTF-8"), ("LC_ALL", "C")], true),
            (
                &[("LANG", "C"), ("LC_CTYPE", "en_US.UTF-8"), ("LC_ALL", "")],
                false,
            ),
            (&[("LANG", "pt_BR.ISO-8859-1")], true),
            (&[], true),
        ] {
            assert_eq!(style(false, variables).ascii, ascii, "{variables:?}");
        }
    }

    #[test]
    fn ascii_replaces_or_escapes_letters() {
        let ascii = Style {
            ascii: true,
            ..Style::default()
        };
        assert_eq!(
            ascii.text("Gr\u{ea}mio 1.15\u{25b2} 4.2\u{25bc}"),
            "Gr?mio 1.15^ 4.2v"
        );
        assert_eq!(
            ascii.json("{\"a\":\"Gr\u{ea}mio \u{1f3c7}\"}"),
            r#"{"a":"Gr\u00eamio \ud83c\udfc7"}"#
        );
        assert_eq!(Style::default().text("Gr\u{ea}mio"), "Gr\u{ea}mio");
    }

    #[test]
    fn long_line_wraps_between_parts() {
        let parts = [
            ("", "21:07:45.000Z"),
            (" ", "E"),
            ("  ", "home \u{1b}[32m1.15^\u{1b}[0m"),
            ("  ", "draw 3.2"),
        ];
        let parts = parts.map(|(separator, part)| (separator, part.to_owned()));
        assert_eq!(
            fold(&parts, None),
            "21:07:45.000Z E  home \u{1b}[32m1.15^\u{1b}[0m  draw 3.2"
        );
        assert_eq!(
            fold(&parts, Some(27)),
            "21:07:45.000Z E  home \u{1b}[32m1.15^\u{1b}[0m\n    draw 3.2"
        );
        assert_eq!(fold(&parts, Some(1)).lines().count(), 4);
    }

    proptest! {
        #[test]
        fn ascii_output_preserves_json_value(text in ".{0,40}") {
            let ascii = Style { ascii: true, ..Style::default() };
            prop_assert!(ascii.text(&text).is_ascii());
            let json = serde_json::to_string(&text).unwrap();
            let escaped = ascii.json(&json);
            prop_assert!(escaped.is_ascii());
            prop_assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
        }
    }
}
