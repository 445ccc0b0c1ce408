//! Strict JSON objects. A derived reader also accepts an array for a struct (`["MATCH_001","1x2"]`,
//! field by field), so a message without field names would be read by position. All external input
//! is read with these functions.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A value that is read from a JSON object only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
    }
}

/// Reads a field that holds a list of objects: `#[serde(deserialize_with = "json::objects")]`.
pub(crate) fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|Object(value)| value).collect())
}

/// Reads an object from bytes.
pub(crate) fn from_slice<'a, T: Deserialize<'a>>(json: &'a [u8]) -> serde_json::Result<T> {
    serde_json::from_slice(json).map(|Object(value)| value)
}

/// Reads an object from text.
pub(crate) fn from_str<'a, T: Deserialize<'a>>(json: &'a str) -> serde_json::Result<T> {
    serde_json::from_str(json).map(|Object(value)| value)
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Outer<'a> {
        id: u8,
        #[serde(borrow)]
        text: &'a RawValue,
        inner: Option<Object<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        name: String,
    }

    #[test]
    fn object_is_read_by_name() {
        let read: Outer =
            from_str(r#"{"id":1,"text":1.50,"inner":{"name":"a"},"more":[]}"#).unwrap();
        assert_eq!(
            (
                read.id,
                read.text.get(),
                read.inner.unwrap().0.name.as_str()
            ),
            (1, "1.50", "a")
        );
        assert!(
            from_slice::<Outer>(br#"{"id":1,"text":1.50}"#)
                .unwrap()
                .inner
                .is_none()
        );
    }

    #[test]
    fn array_in_place_of_object_is_refused() {
        assert!(
            serde_json::from_str::<Inner>(r#"["a"]"#).is_ok(),
            "what derived readers accept"
        );
        for json in [r#"[1,1.50]"#, r#"[1,1.50,null]"#, "null", "1", r#""a""#] {
            let error = from_str::<Outer>(json).unwrap_err().to_string();
            assert!(error.contains("expected a JSON object"), "{json}: {error}");
        }
        let nested = from_str::<Outer>(r#"{"id":1,"text":1,"inner":["a"]}"#)
            .unwrap_err()
            .to_string();
        assert!(
            nested.contains("invalid type: sequence, expected a JSON object"),
            "{nested}"
        );
    }

    #[test]
    fn field_given_twice_is_refused() {
        let error = from_str::<Inner>(r#"{"name":"a","name":"b"}"#)
            .unwrap_err()
            .to_string();
        assert!(error.contains("duplicate field `name`"), "{error}");
    }
}
