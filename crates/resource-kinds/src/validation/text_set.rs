//! A set of texts, for rules that each text of a list must be unique.

use std::collections::BTreeSet;

/// A short list is searched without a tree.
#[derive(Default)]
pub(crate) struct TextSet<'a> {
    few: Vec<&'a str>,
    /// All texts, if there are more than [`SEARCHED_MAX`].
    many: Option<BTreeSet<&'a str>>,
}

const SEARCHED_MAX: usize = 16;

impl<'a> TextSet<'a> {
    /// Adds a text; returns whether it is new.
    pub(crate) fn insert(&mut self, text: &'a str) -> bool {
        if let Some(many) = &mut self.many {
            return many.insert(text);
        }
        if self.few.contains(&text) {
            return false;
        }
        self.few.push(text);
        if self.few.len() > SEARCHED_MAX {
            self.many = Some(self.few.drain(..).collect());
        }
        true
    }

    pub(crate) fn contains(&self, text: &str) -> bool {
        match &self.many {
            Some(many) => many.contains(text),
            None => self.few.contains(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_is_new_once_however_many_there_are() {
        let texts: Vec<String> = (0..3 * SEARCHED_MAX).map(|n| n.to_string()).collect();
        let mut texts_so_far = TextSet::default();
        for (count, text) in texts.iter().enumerate() {
            assert!(
                !texts_so_far.contains(text) && texts_so_far.insert(text),
                "{text}"
            );
            for (index, other) in texts.iter().enumerate() {
                assert_eq!(texts_so_far.contains(other), index <= count);
            }
            assert!(
                !texts_so_far.insert(text) && !texts_so_far.insert("0"),
                "{text}"
            );
        }
    }
}
