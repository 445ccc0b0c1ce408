//! Removes credentials from texts written by libraries and servers, before they are logged, printed
//! or sent.

use std::fmt::Write;

use regex::Regex;

/// Replaces a secret in a text.
pub(crate) const MASK: &str = "***";
/// Replaces a whole text. A secret of one to three characters also occurs in ordinary words, so
/// masking each of these places would reveal which characters are missing.
const WITHHELD: &str = "(text withheld: it contains a credential that is too short to mask)";
/// If a secret is shorter, the whole text is withheld.
const SHORTEST_MASKED: usize = 4;
/// A server may truncate the text it repeats, so this many characters of a longer secret are enough
/// to recognise it.
const PREFIX: usize = 12;

/// The secrets of one address, in every notation in which a library may repeat them.
#[derive(Clone, Default)]
pub struct Redaction {
    masked: Option<Regex>,
    withheld: Option<Regex>,
}

impl std::fmt::Debug for Redaction {
    /// The patterns contain the secrets, so they are not shown.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Redaction")
    }
}

impl Redaction {
    /// Removes these secrets, each given in decoded form. Empty ones are ignored.
    pub fn of<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Redaction {
        let mut long = Vec::new();
        let mut short = Vec::new();
        for secret in secrets.into_iter().filter(|secret| !secret.is_empty()) {
            let count = secret.chars().count();
            if count < SHORTEST_MASKED {
                short.push(pattern(secret));
                continue;
            }
            long.push((count, pattern(secret)));
            if count > PREFIX {
                let prefix: String = secret.chars().take(PREFIX).collect();
                long.push((PREFIX, format!("{}\\S*", pattern(&prefix))));
            }
        }
        // The longest first: an alternation takes the first that matches.
        long.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        Redaction {
            masked: any_of(long.into_iter().map(|(_, pattern)| pattern).collect()),
            withheld: any_of(short),
        }
    }

    /// The text without the secrets.
    pub fn apply(&self, text: &str) -> String {
        if self
            .withheld
            .as_ref()
            .is_some_and(|short| short.is_match(text))
        {
            return WITHHELD.to_owned();
        }
        match &self.masked {
            Some(secrets) => secrets.replace_all(text, MASK).into_owned(),
            None => text.to_owned(),
        }
    }
}

/// `None` without patterns. If a pattern is too large to compile, its secret would stay readable,
/// so every text is withheld.
fn any_of(patterns: Vec<String>) -> Option<Regex> {
    if patterns.is_empty() {
        return None;
    }
    Regex::new(&patterns.join("|"))
        .or_else(|_| Regex::new(""))
        .ok()
}

/// Matches a secret whose characters are written as they are, percent-encoded, after backslashes,
/// or as `\x..` and `\u..`.
fn pattern(secret: &str) -> String {
    let mut pattern = String::new();
    for letter in secret.chars() {
        let plain = regex::escape(&letter.to_string());
        let _ = write!(pattern, r"(?:\\*{plain}|");
        let mut utf8 = [0; 4];
        let bytes = letter.encode_utf8(&mut utf8).as_bytes();
        bytes
            .iter()
            .for_each(|byte| pattern.push_str(&format!("%{}", hex(u32::from(*byte), 2))));
        pattern.push('|');
        bytes
            .iter()
            .for_each(|byte| pattern.push_str(&format!(r"\\x{}", hex(u32::from(*byte), 2))));
        let mut utf16 = [0; 2];
        pattern.push('|');
        letter.encode_utf16(&mut utf16).iter().for_each(|unit| {
            pattern.push_str(&format!(r"\\u{}", hex(u32::from(*unit), 4)));
        });
        let _ = write!(pattern, r"|\\u\{{0*{}\}}", hex(u32::from(letter), 1));
        match letter {
            ' ' => pattern.push_str(r"|\+"),
            '\n' => pattern.push_str(r"|\\n"),
            '\r' => pattern.push_str(r"|\\r"),
            '\t' => pattern.push_str(r"|\\t"),
            _ => {}
        }
        pattern.push(')');
    }
    pattern
}

/// Hexadecimal digits in either case.
fn hex(number: u32, digits: usize) -> String {
    let text = format!("{number:0digits$x}");
    let either = |digit: char| {
        if digit.is_ascii_digit() {
            digit.to_string()
        } else {
            format!("[{digit}{}]", digit.to_ascii_uppercase())
        }
    };
    text.chars().map(either).collect()
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_occurrence_is_masked() {
        let redaction = Redaction::of(["hunter2", "", "it's"]);
        assert_eq!(
            redaction.apply("hunter2, hunter2 and it\\'s"),
            "***, *** and ***"
        );
        assert_eq!(redaction.apply("nothing of it"), "nothing of it");
        assert_eq!(Redaction::default().apply("a text"), "a text");
        assert!(!format!("{redaction:?}").contains("hunter2"));
    }

    #[test]
    fn longer_secret_wins_over_its_part() {
        assert_eq!(
            Redaction::of(["hunter2", "hunter2-and-more"]).apply("x hunter2-and-more y"),
            "x *** y"
        );
    }

    #[test]
    fn truncated_secret_is_masked() {
        let redaction = Redaction::of(["0123456789abcdefghij"]);
        assert_eq!(redaction.apply("args '0123456789abcdef"), "args '***");
    }

    #[test]
    fn short_secret_withholds_the_text() {
        let redaction = Redaction::of(["e"]);
        assert_eq!(redaction.apply("connection refused"), WITHHELD);
        assert_eq!(redaction.apply("no such host"), "no such host");
        assert_eq!(Redaction::of(["@"]).apply("x%40y"), WITHHELD);
    }

    proptest! {
        #[test]
        fn every_notation_is_masked(secret in "[\\x20-\\x7eé¿𝄞\\n]{4,24}", before in "[ -~]{0,8}") {
            let redaction = Redaction::of([secret.as_str()]);
            let json = serde_json::to_string(&secret).unwrap();
            let notations = [
                secret.clone(),
                utf8_percent_encode(&secret, NON_ALPHANUMERIC).to_string(),
                utf8_percent_encode(&secret, NON_ALPHANUMERIC).to_string().to_lowercase(),
                secret.escape_default().to_string(),
                secret.escape_debug().to_string(),
                secret.replace('\\', "\\\\").replace('\'', "\\'"),
                json[1..json.len() - 1].to_owned(),
            ];
            for notation in notations {
                // Lower case also changes letters of the secret itself, unless they are lower case
                // already.
                if notation.to_lowercase() == notation && secret.to_lowercase() != secret {
                    continue;
                }
                let left = redaction.apply(&format!("<<{before}>> {notation} <<"));
                prop_assert!(left.contains(MASK), "{left}");
                prop_assert!(!left.contains(&format!("> {notation} <")), "{left}");
            }
        }
    }
}
