//! Fields of the last objects of a list, with their encodings. Objects of one template have most of their
//! text in common: a field with the text of its predecessor is compared and copied, and not read.

use json_text::Cursor;

/// The encodings that are kept have this size at most.
const KEPT_BYTES_MAX: usize = 256 * 1024;

/// Occurrences of a field within one object that are distinguished, such as those in several containers.
const OCCURRENCES_MAX: usize = 8;

/// Misses in a row after which a field is not checked in each object any more.
const MISSES_MAX: u32 = 3;

/// A field that never repeats is checked in one object of this many, as a power of two.
const REST_BITS_MAX: u32 = 6;

/// The texts and encodings of fields; nothing for single objects.
#[derive(Default)]
pub(super) struct Repeats<'t> {
    /// The indices of fields, by the slots of the messages; zero for a field that did not come yet.
    by_slot: Vec<u16>,
    fields: Vec<RepeatedField<'t>>,
    encodings: Vec<u8>,
    /// The fields of the object that are kept when they are written.
    missed: Vec<(Occurrence, &'t [u8])>,
    object: u32,
}

/// A field by its slot.
#[derive(Default)]
struct RepeatedField<'t> {
    /// The object that had it last, and how often.
    object: u32,
    count: usize,
    repeats: Vec<Repeat<'t>>,
}

/// An occurrence of a field in the objects.
#[derive(Default)]
struct Repeat<'t> {
    text: &'t [u8],
    start: usize,
    end: usize,
    /// Objects in a row that had another text.
    misses: u32,
    /// Objects in which the field is not checked.
    rest: u32,
}

/// An occurrence of a field in an object.
#[derive(Clone, Copy)]
pub(super) struct Occurrence {
    field: usize,
    index: usize,
}

impl<'t> Repeats<'t> {
    /// For the objects of a list, with that number of slots.
    pub(super) fn new(slots: usize) -> Self {
        Self {
            by_slot: vec![0; slots],
            fields: vec![RepeatedField::default()],
            ..Self::default()
        }
    }

    /// Starts the next object of a list.
    pub(super) fn begin(&mut self) {
        self.object = self.object.wrapping_add(1);
        self.missed.clear();
        if self.encodings.len() > KEPT_BYTES_MAX / 2 {
            self.encodings.clear();
            let repeats = self.fields.iter_mut().flat_map(|field| &mut field.repeats);
            repeats.for_each(|repeat| repeat.text = b"");
        }
    }

    /// The occurrence of the field that is next, whose value is an object or an array; `None` if it is not
    /// to be checked.
    pub(super) fn occurrence(&mut self, slot: usize) -> Option<Occurrence> {
        let number = self.by_slot.get_mut(slot)?;
        if *number == 0 {
            *number = u16::try_from(self.fields.len()).ok()?;
            self.fields.push(RepeatedField::default());
        }
        let field = usize::from(*number);
        let known = self.fields.get_mut(field)?;
        if known.object != self.object {
            known.object = self.object;
            known.count = 0;
        }
        let index = known.count;
        known.count += 1;
        if index == known.repeats.len() && index < OCCURRENCES_MAX {
            known.repeats.push(Repeat::default());
        }
        let repeat = known.repeats.get_mut(index)?;
        if repeat.rest > 0 {
            repeat.rest -= 1;
            return None;
        }
        Some(Occurrence { field, index })
    }

    /// Goes behind the value of a field if it has the text of its predecessor; the place of its encoding.
    pub(super) fn take(
        &mut self,
        Occurrence { field, index }: Occurrence,
        cursor: &mut Cursor<'t>,
    ) -> Option<(usize, usize)> {
        let repeat = self.fields.get_mut(field)?.repeats.get_mut(index)?;
        if cursor.take_nested(repeat.text) {
            repeat.misses = 0;
            return Some((repeat.start, repeat.end));
        }
        if !repeat.text.is_empty() {
            repeat.misses += 1;
            let bits = repeat.misses.saturating_sub(MISSES_MAX).min(REST_BITS_MAX);
            repeat.rest = (1 << bits) - 1;
        }
        None
    }

    /// Announces a field with another text than its predecessor, which is written later; its index.
    pub(super) fn missed(&mut self, occurrence: Occurrence, text: &'t [u8]) -> usize {
        self.missed.push((occurrence, text));
        self.missed.len() - 1
    }

    /// Keeps the encoding of an announced field.
    pub(super) fn keep(&mut self, missed: usize, encoding: &[u8]) {
        let Some((Occurrence { field, index }, text)) = self.missed.get(missed) else {
            return;
        };
        let start = self.encodings.len();
        let end = start + encoding.len();
        let repeat = self.fields.get_mut(*field);
        let repeat = repeat.and_then(|field| field.repeats.get_mut(*index));
        if let Some(repeat) = repeat.filter(|_| end <= KEPT_BYTES_MAX) {
            self.encodings.extend_from_slice(encoding);
            (repeat.text, repeat.start, repeat.end) = (text, start, end);
        }
    }

    /// The encoding at a place.
    pub(super) fn encoding(&self, start: usize, end: usize) -> &[u8] {
        &self.encodings[start..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the value repeats. If not, it is kept with itself as its encoding.
    fn is_repeated<'t>(repeats: &mut Repeats<'t>, slot: usize, text: &'t [u8]) -> Option<bool> {
        let occurrence = repeats.occurrence(slot)?;
        let mut cursor = Cursor::new(text);
        if let Some((start, end)) = repeats.take(occurrence, &mut cursor) {
            assert_eq!(
                (repeats.encoding(start, end), cursor.offset()),
                (text, text.len())
            );
            return Some(true);
        }
        let missed = repeats.missed(occurrence, text);
        repeats.keep(missed, text);
        Some(false)
    }

    #[test]
    fn each_occurrence_of_a_field_has_its_own_text() {
        let mut repeats = Repeats::new(9);
        for known in [Some(false), Some(true), Some(true)] {
            repeats.begin();
            for (slot, text) in [(8, "{\"a\":1}"), (8, "{\"b\":1}"), (0, "[]")] {
                let found = is_repeated(&mut repeats, slot, text.as_bytes());
                assert_eq!(found, known, "{text}");
            }
        }
        assert_eq!(is_repeated(&mut Repeats::default(), 0, b"{}"), None);
    }

    #[test]
    fn a_field_that_never_repeats_is_rarely_looked_at() {
        let texts: Vec<String> = (0..2000).map(|n| format!("[{n}]")).collect();
        let mut repeats = Repeats::new(1);
        let mut looked = 0;
        for text in &texts {
            repeats.begin();
            let found = is_repeated(&mut repeats, 0, text.as_bytes());
            assert_ne!(found, Some(true));
            looked += usize::from(found.is_some());
        }
        assert!((30..50).contains(&looked), "{looked}");
    }

    #[test]
    fn the_encodings_have_a_bound() {
        let large: Vec<String> = (0..50)
            .map(|n| format!("[\"{}\"]", n.to_string().repeat(20_000)))
            .collect();
        let mut repeats = Repeats::new(50);
        for _ in 0..3 {
            repeats.begin();
            for (slot, text) in large.iter().enumerate() {
                is_repeated(&mut repeats, slot, text.as_bytes());
                assert!(repeats.encodings.len() <= KEPT_BYTES_MAX);
            }
        }
    }
}
