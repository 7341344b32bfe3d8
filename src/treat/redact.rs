//! Redaction: what a rule matches is replaced, rule after rule, and it is known which places of the
//! original text were.

use std::borrow::Cow;
use std::ops::Range;

use regex::Regex;

/// How far behind the place where a line is to be cut redaction looks: a match of so many bytes is
/// found whole.
pub const LOOKAHEAD: usize = 4 * 1024;
/// How long replacements may make a text: to so many bytes, or, if it was nearly as long before, by
/// [`GROW_MAX`]. Escaped, it must still fit into a body.
const TEXT_MAX: usize = 1024 * 1024;
const GROW_MAX: usize = 64 * 1024;

/// What must not leave, and what stands there instead.
#[derive(Clone, Debug)]
pub struct Rule {
    pattern: Regex,
    replace: String,
    has_groups: bool,
}

impl Rule {
    /// `replace` may name groups of `pattern`, as `$1` or `${name}`. The pattern must not match the
    /// empty text.
    #[must_use]
    pub fn new(pattern: Regex, replace: String) -> Self {
        let has_groups = replace.contains('$');
        Self {
            pattern,
            replace,
            has_groups,
        }
    }

    /// The first match at or behind `at`, and what stands in its place.
    fn next<'a>(&'a self, text: &str, at: usize) -> Option<(Range<usize>, Cow<'a, str>)> {
        if !self.has_groups {
            let found = self.pattern.find_at(text, at)?;
            return Some((found.range(), self.replace.as_str().into()));
        }
        let captures = self.pattern.captures_at(text, at)?;
        let mut replacement = String::new();
        captures.expand(&self.replace, &mut replacement);
        Some((captures.get(0)?.range(), replacement.into()))
    }

    /// Replaces every match in `text` from `from` on; patterns see what stands before. Whatever
    /// would lengthen it by more than `growth` is replaced by nothing. Nothing if nothing matched.
    fn apply(&self, text: &str, from: usize, growth: &mut usize) -> Option<Redacted> {
        let (mut at, mut copied) = (from, 0);
        let mut redacted = Redacted::default();
        while let Some((found, replacement)) = self.next(text, at) {
            let out = &mut redacted.text;
            out.push_str(&text[copied..found.start]);
            let begins = out.len();
            let longer = replacement.len().saturating_sub(found.len());
            if longer <= *growth {
                *growth -= longer;
                out.push_str(&replacement);
            } else {
                redacted.curtailed = true;
            }
            (at, copied) = (found.end, found.end);
            let to = begins..redacted.text.len();
            redacted.edits.push(Edit { from: found, to });
        }
        redacted.text.push_str(&text[copied..]);
        (!redacted.edits.is_empty()).then_some(redacted)
    }
}

/// A place of a text, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Edit {
    /// In the text before.
    from: Range<usize>,
    /// In the text after.
    to: Range<usize>,
}

/// A text with replacements.
#[derive(Debug, Default)]
pub(super) struct Redacted {
    /// The text after.
    pub(super) text: String,
    /// Some replacements were left out for want of room; what they stood for is gone all the same.
    pub(super) curtailed: bool,
    /// In order, and apart from each other on both sides.
    edits: Vec<Edit>,
}

impl Redacted {
    /// The place of the original text that was replaced and goes across `place`, if there is one.
    pub(super) fn across(&self, place: usize) -> Option<Range<usize>> {
        let after = self.edits.partition_point(|edit| edit.from.end <= place);
        let edit = self.edits.get(after)?;
        (edit.from.start < place).then(|| edit.from.clone())
    }

    /// Where a part that ended at `place` of the original text ends now: behind what was replaced
    /// there.
    pub(super) fn end_of(&self, place: usize) -> usize {
        let begun = self.edits.partition_point(|edit| edit.from.start < place);
        match begun.checked_sub(1).map(|last| &self.edits[last]) {
            Some(edit) => edit.to.end + place.saturating_sub(edit.from.end),
            None => place,
        }
    }

    /// Puts the same replacements into the bytes that the original text stands for, up to `end`.
    /// `place` finds a place of the text, within them, in the bytes.
    pub(super) fn in_bytes(
        &self,
        bytes: &[u8],
        end: usize,
        place: impl Fn(usize) -> usize,
    ) -> Vec<u8> {
        let (mut out, mut copied) = (Vec::with_capacity(bytes.len()), 0);
        for edit in self.edits.iter().take_while(|edit| edit.from.start < end) {
            out.extend_from_slice(&bytes[copied..place(edit.from.start)]);
            out.extend_from_slice(&self.text.as_bytes()[edit.to.clone()]);
            copied = place(edit.from.end.min(end));
        }
        out.extend_from_slice(&bytes[copied..]);
        out
    }

    /// The same with what another rule made of it.
    fn then(self, later: Self) -> Self {
        Self {
            edits: compose(&self.edits, &later.edits),
            text: later.text,
            curtailed: self.curtailed || later.curtailed,
        }
    }
}

/// What `first` and then `second` did, in one step: what touches the same bytes of the text between
/// them becomes one edit.
fn compose(first: &[Edit], second: &[Edit]) -> Vec<Edit> {
    let (mut edits, mut i, mut j) = (Vec::with_capacity(first.len() + second.len()), 0, 0);
    loop {
        let between = match (first.get(i), second.get(j)) {
            (Some(edit), Some(later)) if edit.to.start <= later.from.start => edit.to.clone(),
            (Some(edit), None) => edit.to.clone(),
            (_, Some(later)) => later.from.clone(),
            (None, None) => return edits,
        };
        let start = between.start;
        let from = original(&first[..i], start);
        let to = outcome(&second[..j], start);
        let mut end = start;
        loop {
            let within = |place: &Range<usize>| place.start < end || *place == between;
            if let Some(edit) = first.get(i).filter(|edit| within(&edit.to)) {
                end = end.max(edit.to.end);
                i += 1;
            } else if let Some(later) = second.get(j).filter(|later| within(&later.from)) {
                end = end.max(later.from.end);
                j += 1;
            } else {
                break;
            }
        }
        edits.push(Edit {
            from: from..original(&first[..i], end),
            to: to..outcome(&second[..j], end),
        });
    }
}

/// Where a place behind these edits was before them.
fn original(edits: &[Edit], place: usize) -> usize {
    edits
        .last()
        .map_or(place, |edit| edit.from.end + (place - edit.to.end))
}

/// Where a place behind these edits is after them.
fn outcome(edits: &[Edit], place: usize) -> usize {
    edits
        .last()
        .map_or(place, |edit| edit.to.end + (place - edit.from.end))
}

/// Rules in the order in which they are followed; each sees what the ones before it left.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// These rules.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    /// Nothing is redacted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Redacts a line's text from `from` on. Nothing if there was nothing to do.
    pub(super) fn apply(&self, text: &str, from: usize) -> Option<Redacted> {
        let mut growth = TEXT_MAX.saturating_sub(text.len()).max(GROW_MAX);
        self.apply_within(text, from, &mut growth)
    }

    /// The same where the text may become longer by no more than `growth`, from which is taken what
    /// was used.
    pub(super) fn apply_within(
        &self,
        text: &str,
        from: usize,
        growth: &mut usize,
    ) -> Option<Redacted> {
        self.0
            .iter()
            .fold(None, |redacted: Option<Redacted>, rule| {
                let text = redacted.as_ref().map_or(text, |redacted| &redacted.text);
                match (rule.apply(text, from, growth), redacted) {
                    (Some(later), Some(redacted)) => Some(redacted.then(later)),
                    (later, redacted) => later.or(redacted),
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(rules: &[(&str, &str)]) -> Rules {
        let rule = |(pattern, replace): &(&str, &str)| {
            Rule::new(
                Regex::new(pattern).expect("a pattern"),
                (*replace).to_owned(),
            )
        };
        Rules::new(rules.iter().map(rule).collect())
    }

    fn redacted(of: &[(&str, &str)], text: &str) -> String {
        rules(of)
            .apply(text, 0)
            .map_or(text.to_owned(), |it| it.text)
    }

    #[test]
    fn rules_follow_one_another_and_may_name_groups() {
        let card = (r"\b\d{12}(\d{4})\b", "[card $1]");
        let user = ("user=(?P<name>\\w)\\w*", "user=${name}…");
        assert_eq!(
            redacted(&[card, user], "user=alice paid with 4111111111111234"),
            "user=a… paid with [card 1234]"
        );
        // The second sees what the first left, and takes a part of it.
        assert_eq!(
            redacted(&[("secret", "[gone]"), (r"gone\] x", "*")], "a secret x"),
            "a [*"
        );
        assert_eq!(redacted(&[("b", "")], "abc"), "ac");
    }

    #[test]
    fn a_place_goes_the_way_of_what_stands_there() {
        let it = rules(&[("bb", "12345"), ("c+", "")])
            .apply("abbcccd", 0)
            .expect("matches");
        assert_eq!(it.text, "a12345d");
        assert_eq!(
            (it.across(1), it.across(2), it.across(3)),
            (None, Some(1..3), None)
        );
        assert_eq!((it.across(4), it.across(6)), (Some(3..6), None));
        assert_eq!((it.end_of(1), it.end_of(2), it.end_of(3)), (1, 6, 6));
        assert_eq!((it.end_of(4), it.end_of(6), it.end_of(7)), (6, 6, 7));
    }

    #[test]
    fn replacements_do_not_blow_a_text_up() {
        let digits = "1".repeat(TEXT_MAX);
        let it = rules(&[(r"\d", "[digit]"), ("g", "gg")])
            .apply(&digits, 0)
            .expect("matches");
        assert!(
            it.curtailed && it.text.len() <= TEXT_MAX + GROW_MAX,
            "{}",
            it.text.len()
        );
        assert!(!it.text.contains('1'));
    }

    proptest! {
        #[test]
        fn the_edits_of_all_rules_together_tell_how_one_text_became_the_other(
            text in "[abc]{0,40}",
            of in proptest::collection::vec(("[abcx]{1,3}|[ab][+]|a[.]b", "[abcx]{0,3}"), 0..5),
            from in 0usize..5,
        ) {
            let of: Vec<(&str, &str)> = of.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            let from = from.min(text.len());
            let Some(it) = rules(&of).apply(&text, from) else { return Ok(()); };
            let (mut rebuilt, mut copied, mut to) = (String::new(), 0, 0);
            for edit in &it.edits {
                prop_assert!(edit.from.start >= copied.max(from) && edit.to.start >= to);
                rebuilt.push_str(&text[copied..edit.from.start]);
                prop_assert_eq!(rebuilt.len(), edit.to.start);
                rebuilt.push_str(&it.text[edit.to.clone()]);
                (copied, to) = (edit.from.end, edit.to.end);
            }
            rebuilt.push_str(&text[copied..]);
            prop_assert_eq!(&rebuilt, &it.text);
            prop_assert_eq!(it.in_bytes(text.as_bytes(), text.len(), |at| at), it.text.into_bytes());
        }
    }
}
