//! Ids of events, markets, selections, users and sources. Cheap to clone, valid by construction.

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
    /// The text contains a control character, or starts or ends with white space.
    #[error("{0} contains a control character or starts or ends with white space")]
    BadCharacter(&'static str),
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $called:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps a text of 1 to [`MAX_ID_BYTES`] bytes without control characters or
            /// surrounding white space.
            pub fn new(text: &str) -> Result<$name, IdError> {
                check(text, $called)?;
                Ok($name(text.into()))
            }

            /// The id as text.
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
    /// An event (a fixture), such as `MATCH_001`. Also the key of its records on the bus.
    EventId,
    "event id"
);
id!(
    /// A selection within a market, such as `home`.
    SelectionId,
    "selection id"
);
id!(
    /// A kind of market, such as `1x2` or `total_goals`, without its line.
    MarketName,
    "market"
);
id!(
    /// A user, such as `USER_001`, who has a wallet and places bets.
    UserId,
    "userId"
);
id!(
    /// The client's reference of a transfer. The same reference always identifies the same
    /// transfer.
    Reference,
    "external_ref"
);
id!(
    /// The source of an update, such as `supplier-simulator`.
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

/// A market of an event: its name and, if it has one, its line. Different lines of one name are
/// different markets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarketKey {
    /// The kind of market.
    pub name: MarketName,
    /// The line, for markets such as total goals over/under 2.5.
    pub line: Option<Line>,
}

/// The text is not a valid market key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a market key")]
pub struct BadMarketKey(String);

/// A market of an event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventMarket {
    /// The event.
    pub event_id: EventId,
    /// The market.
    pub market: MarketKey,
}

impl fmt::Display for EventMarket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.event_id, self.market)
    }
}

impl fmt::Display for MarketKey {
    /// `1x2`, or `total_goals@2.5` with a line. The text is unique per key: `@` and `%` in the name
    /// are written as `%40` and `%25`, so the name `total@2.5` differs from the line 2.5 of
    /// `total`.
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

    /// Reads the text form written by [`MarketKey`]'s `Display`.
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

    /// Names in which the characters with a special meaning in the text form are frequent.
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
    fn name_with_delimiter_differs_from_line() {
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
    fn id_is_short_printable_text() {
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
    fn escaped_id_reads_from_json() {
        assert_eq!(
            serde_json::from_str::<EventId>(r#""Gr\u00eamio""#)
                .unwrap()
                .as_str(),
            "Grêmio"
        );
        assert!(serde_json::from_str::<EventId>(r#""""#).is_err());
    }

    #[test]
    fn line_distinguishes_markets_of_one_name() {
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
