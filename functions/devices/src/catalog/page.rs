//! One page of a list.

use serde_json::Value;

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The entries on it.
    pub entries: Vec<Value>,
    /// Whether there is another page. What the vendor says is believed, so whoever follows the pages
    /// must bound their number.
    pub more: bool,
}

/// Reads `answer` to a question for `per_page` entries of the list `key`; none where it has no such list.
///
/// There is another page if `meta.next` has an `href`, or `meta.current_page` is below
/// `meta.last_page`; and where there is no `meta` that says either, if this one is full.
pub fn page(mut answer: Value, key: &str, per_page: usize) -> Option<Page> {
    let Value::Array(entries) = answer.get_mut(key)?.take() else { return None };
    let meta = &answer["meta"];
    let href = |next: &Value| next.as_str().or_else(|| next["href"].as_str()).is_some_and(|it| !it.is_empty());
    let next = meta.get("next").map(href);
    let below = meta["current_page"].as_u64().zip(meta["last_page"].as_u64()).map(|(current, last)| current < last);
    let more = match (next, below) {
        (None, None) => entries.len() >= per_page,
        (next, below) => next == Some(true) || below == Some(true),
    };
    Some(Page { entries, more })
}
