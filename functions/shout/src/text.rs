//! Reversing and shouting, as a person sees text.

use unicode_segmentation::UnicodeSegmentation;

/// Reverses by extended grapheme clusters (UAX #29), so that accents stay on their letters and
/// flags and families stay whole.
pub fn reverse(text: &str) -> String {
    text.graphemes(true).rev().collect()
}

/// Shouts by Unicode's full upper-case mapping, which may be longer: `ß` becomes `SS`.
pub fn shout(text: &str) -> String {
    text.to_uppercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_reversed_as_a_person_sees_it() {
        for (text, reversed) in [
            ("", ""),
            ("hello", "olleh"),
            ("straße", "eßarts"),
            ("e\u{301}a", "ae\u{301}"),
            ("👍🏽a", "a👍🏽"),
            ("👨‍👩‍👧‍👦!", "!👨‍👩‍👧‍👦"),
            ("🇩🇪🇫🇷", "🇫🇷🇩🇪"),
            ("שלום", "םולש"),
            ("a\0b", "b\0a"),
            ("a\r\nb", "b\r\na"),
        ] {
            assert_eq!(reverse(text), reversed, "{text:?}");
        }
        assert_eq!(shout("eßarts"), "ESSARTS");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_invented(text in "\\PC{0,64}") {
            let mut before: Vec<_> = text.chars().collect();
            let mut after: Vec<_> = reverse(&text).chars().collect();
            before.sort_unstable();
            after.sort_unstable();
            prop_assert_eq!(before, after);
        }
    }
}
