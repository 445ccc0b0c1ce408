//! Names of things: events, markets, selections and sources. Cheap to clone, valid by construction.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::odds::price::Line;

/// The longest id, in bytes.
pub const MAX_ID_BYTES: usize = 128;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// The text is longer than [`MAX_ID_BYTES`].
    #[error("{0} is longer than {MAX_ID_BYTES} bytes")]
    TooLong(&'static str),
    /// The text holds white space at an end, or a control character.
    #[error("{0} holds a control character or starts or ends with white space")]
    BadCharacter(&'static str),
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $called:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a text of 1 to [`MAX_ID_BYTES`] bytes without control characters or outer
            /// white space.
            pub fn new(text: &str) -> Result<$name, IdError> {
                check(text, $called)?;
                Ok($name(text.into()))
            }

            /// The id as it is written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<$name, IdError> {
                $name::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                $name::new(&text).map_err(D::Error::custom)
            }
        }
    };
}

id!(
    /// An event (a fixture), as `MATCH_001`. Also the key of its records on the bus.
    EventId,
    "event id"
);
id!(
    /// A selection within a market, as `home`.
    SelectionId,
    "selection id"
);
id!(
    /// A kind of market, as `1x2` or `total_goals`, without its line.
    MarketName,
    "market"
);
id!(
    /// A user, as `USER_001`: whoever has a wallet and places bets.
    UserId,
    "userId"
);
id!(
    /// What a movement of money is known by to whoever asked for it. The same reference is the same
    /// movement, for ever.
    Reference,
    "external_ref"
);
id!(
    /// Who an update comes from, as `supplier-simulator`.
    Source,
    "source"
);

fn check(text: &str, called: &'static str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty(called));
    }
    if text.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong(called));
    }
    if text.trim().len() != text.len() || text.chars().any(char::is_control) {
        return Err(IdError::BadCharacter(called));
    }
    Ok(())
}

/// Which market of an event: its name and, where it has one, its line. Several lines of one name
/// are several markets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarketKey {
    /// The kind of market.
    pub name: MarketName,
    /// The line, for markets such as total goals over/under 2.5.
    pub line: Option<Line>,
}

/// A text that is not the text form of a market key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a market key")]
pub struct BadMarketKey(String);

impl fmt::Display for MarketKey {
    /// `1x2`, or `total_goals@2.5` with a line. Two keys never have the same text: an `@` and a `%`
    /// of the name are written as `%40` and `%25`, so the name `total@2.5` differs from the line
    /// 2.5 of `total`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.name.as_str().split_inclusive(['@', '%']) {
            match (part.strip_suffix('@'), part.strip_suffix('%')) {
                (Some(text), _) => write!(out, "{text}%40")?,
                (_, Some(text)) => write!(out, "{text}%25")?,
                _ => out.write_str(part)?,
            }
        }
        self.line.map_or(Ok(()), |line| write!(out, "@{line}"))
    }
}

impl FromStr for MarketKey {
    type Err = BadMarketKey;

    /// Reads what [`MarketKey`]'s `Display` writes.
    fn from_str(text: &str) -> Result<MarketKey, BadMarketKey> {
        let bad = || BadMarketKey(text.chars().take(80).collect());
        let (name, line) = match text.split_once('@') {
            Some((name, line)) => (name, Some(line.parse().map_err(|_| bad())?)),
            None => (text, None),
        };
        let mut parts = name.split('%');
        let mut plain = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (character, rest) = match (part.strip_prefix("40"), part.strip_prefix("25")) {
                (Some(rest), _) => ('@', rest),
                (_, Some(rest)) => ('%', rest),
                _ => return Err(bad()),
            };
            plain.push(character);
            plain.push_str(rest);
        }
        Ok(MarketKey {
            name: MarketName::new(&plain).map_err(|_| bad())?,
            line,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Names that hold the characters that the text form treats specially more often than by
    /// chance.
    fn any_key() -> impl Strategy<Value = MarketKey> {
        let name = prop_oneof!["[@%0-9a.]{1,8}", "\\PC{1,12}"];
        (name, proptest::option::of(-Line::LIMIT..=Line::LIMIT)).prop_filter_map(
            "not a name",
            |(name, line)| {
                let name = MarketName::new(&name).ok()?;
                Some(MarketKey {
                    name,
                    line: line.and_then(Line::from_thousandths),
                })
            },
        )
    }

    #[test]
    fn a_name_with_the_delimiter_differs_from_a_line() {
        let key = |name: &str, line: Option<&str>| MarketKey {
            name: MarketName::new(name).unwrap(),
            line: line.map(|line| line.parse().unwrap()),
        };
        assert_eq!(key("total", Some("2.5")).to_string(), "total@2.5");
        assert_eq!(key("total@2.5", None).to_string(), "total%402.5");
        assert_eq!(key("total%402.5", None).to_string(), "total%25402.5");
        for text in ["", "@2.5", "a@", "a@b", "a%", "a%41", "a@2.5@3", " a"] {
            assert!(text.parse::<MarketKey>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_market_key_reads_back(key in any_key()) {
            prop_assert_eq!(key.to_string().parse::<MarketKey>().unwrap(), key);
        }

        #[test]
        fn distinct_market_keys_have_distinct_texts(one in any_key(), other in any_key()) {
            prop_assert_eq!(one == other, one.to_string() == other.to_string());
        }
    }

    #[test]
    fn an_id_is_a_short_printable_text() {
        assert_eq!(EventId::new("1.197931750").unwrap().as_str(), "1.197931750");
        assert_eq!(
            EventId::new("São Paulo v Grêmio").unwrap().to_string(),
            "São Paulo v Grêmio"
        );
        assert_eq!(EventId::new(""), Err(IdError::Empty("event id")));
        assert_eq!(
            EventId::new(&"x".repeat(129)),
            Err(IdError::TooLong("event id"))
        );
        for text in ["a\nb", " a", "a ", "\u{7f}"] {
            assert_eq!(
                MarketName::new(text),
                Err(IdError::BadCharacter("market")),
                "{text:?}"
            );
        }
    }

    #[test]
    fn an_escaped_id_reads_from_json() {
        assert_eq!(
            serde_json::from_str::<EventId>(r#""Gr\u00eamio""#)
                .unwrap()
                .as_str(),
            "Grêmio"
        );
        assert!(serde_json::from_str::<EventId>(r#""""#).is_err());
    }

    #[test]
    fn a_line_tells_markets_of_one_name_apart() {
        let key = |line: Option<&str>| MarketKey {
            name: MarketName::new("total_goals").unwrap(),
            line: line.map(|line| line.parse().unwrap()),
        };
        assert_eq!(key(Some("2.50")).to_string(), "total_goals@2.5");
        assert_eq!(key(None).to_string(), "total_goals");
        assert_ne!(key(Some("2.5")), key(Some("3.5")));
        assert_eq!(key(Some("2.5")), key(Some("2.500")));
    }
}
