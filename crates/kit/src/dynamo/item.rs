//! Conversions between items and types. Wrappers around `serde_dynamo` whose errors are
//! [`StoreError`]s.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

/// An item, or a key, as the SDK has it.
pub type Item = HashMap<String, AttributeValue>;

/// A string attribute.
pub fn s(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

/// A number attribute. DynamoDB keeps 38 decimal digits, so every Rust integer up to 126 bits is
/// exact.
#[expect(clippy::needless_pass_by_value, reason = "numbers are Copy; `n(&x)` at every call would only be noise")]
pub fn n(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// The key of an item: its partition and its place in it, in the attributes that every table has.
pub fn key(pk: impl Into<String>, sk: impl Into<String>) -> Item {
    Item::from([("pk".to_owned(), s(pk)), ("sk".to_owned(), s(sk))])
}

/// The sort key of an item, or of the key that a page ended with.
pub fn sort_key(item: &Item) -> Option<&str> {
    item.get("sk")?.as_s().ok().map(String::as_str)
}

/// A type's fields as an item. Fails with [`StoreError::Malformed`] for what is not a map.
pub fn to_item<T: Serialize>(value: &T) -> Result<Item, StoreError> {
    Ok(serde_dynamo::to_item(value)?)
}

/// A type from an item. Fails with [`StoreError::Malformed`] where the item does not fit.
pub fn from_item<T: DeserializeOwned>(item: Item) -> Result<T, StoreError> {
    Ok(serde_dynamo::from_item(item)?)
}

/// [`from_item`] for all items of a page. One that does not fit fails the whole page.
pub fn from_items<T: DeserializeOwned>(items: Vec<Item>) -> Result<Vec<T>, StoreError> {
    items.into_iter().map(from_item).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        pk: String,
        version: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    }

    #[test]
    fn a_row_survives_the_way_into_an_item_and_back() {
        let row = Row { pk: "batch#1".into(), version: u64::MAX, note: None };
        let item = to_item(&row).unwrap();
        assert_eq!(item["pk"], s("batch#1"));
        assert_eq!(item["version"], n(u64::MAX));
        assert!(!item.contains_key("note"));
        assert_eq!(from_item::<Row>(item).unwrap(), row);
    }

    #[test]
    fn an_item_that_does_not_fit_is_malformed_and_names_the_field() {
        let error = from_item::<Row>(Item::from([("pk".into(), s("x"))])).unwrap_err();
        assert!(matches!(error, StoreError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains("version"), "{error}");
        assert!(!error.retryable());
    }
}
