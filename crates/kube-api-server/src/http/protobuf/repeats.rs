//! Encodings of fields of the previous objects of a list. Objects from one template have most of their text in
//! common: for a field with the text of the previous object, the stored encoding is copied, and the field is not
//! parsed again.

use json_text::Cursor;

/// Maximum size of the stored encodings, in bytes.
const STORED_BYTES_MAX: usize = 256 * 1024;

/// Maximum number of occurrences of a field in one object that are distinguished, for example in several containers.
const OCCURRENCES_MAX: usize = 8;

/// Number of consecutive misses after which a field is no longer checked in each object.
const MISSES_MAX: u32 = 3;

/// A field that never repeats is checked in one of 2^n objects; this is the maximum n.
const REST_BITS_MAX: u32 = 6;

/// The texts and encodings of fields. For single objects the tables are empty.
#[derive(Default)]
pub(super) struct Repeats<'t> {
    /// The indices of fields, by the slots of the messages; zero for a field that has not occurred yet.
    by_slot: Vec<u16>,
    fields: Vec<RepeatedField<'t>>,
    encodings: Vec<u8>,
    /// The fields of the present object whose encodings are stored when they are written.
    missed: Vec<(Occurrence, &'t [u8])>,
    object: u32,
}

#[derive(Default)]
struct RepeatedField<'t> {
    /// The last object that contained the field, and the number of occurrences in this object.
    object: u32,
    count: usize,
    repeats: Vec<Repeat<'t>>,
}

/// The last text and encoding of one occurrence.
#[derive(Default)]
struct Repeat<'t> {
    text: &'t [u8],
    start: usize,
    end: usize,
    /// Number of consecutive objects with another text.
    misses: u32,
    /// Number of next objects in which the field is not checked.
    rest: u32,
}

/// One occurrence of a field in an object.
#[derive(Clone, Copy)]
pub(super) struct Occurrence {
    field: usize,
    index: usize,
}

impl<'t> Repeats<'t> {
    /// For the objects of a list; `slots` is the number of slots of all messages.
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
        if self.encodings.len() > STORED_BYTES_MAX / 2 {
            self.encodings.clear();
            let repeats = self.fields.iter_mut().flat_map(|field| &mut field.repeats);
            repeats.for_each(|repeat| repeat.text = b"");
        }
    }

    /// The occurrence of the next field, whose value is an object or an array; `None` if the field is not checked.
    pub(super) fn occurrence(&mut self, slot: usize) -> Option<Occurrence> {
        let number = self.by_slot.get_mut(slot)?;
        if *number == 0 {
            *number = u16::try_from(self.fields.len()).ok()?;
            self.fields.push(RepeatedField::default());
        }
        let field = usize::from(*number);
        let entry = self.fields.get_mut(field)?;
        if entry.object != self.object {
            entry.object = self.object;
            entry.count = 0;
        }
        let index = entry.count;
        entry.count += 1;
        if index == entry.repeats.len() && index < OCCURRENCES_MAX {
            entry.repeats.push(Repeat::default());
        }
        let repeat = entry.repeats.get_mut(index)?;
        if repeat.rest > 0 {
            repeat.rest -= 1;
            return None;
        }
        Some(Occurrence { field, index })
    }

    /// If the value has the text of the previous object, skips the value and returns the range of its encoding.
    pub(super) fn skip_repeated(
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

    /// Records that the text of a field differs from the previous object; returns its index. The encoding is stored
    /// later.
    pub(super) fn missed(&mut self, occurrence: Occurrence, text: &'t [u8]) -> usize {
        self.missed.push((occurrence, text));
        self.missed.len() - 1
    }

    /// Stores the encoding of a field with the index from `missed`.
    pub(super) fn keep(&mut self, missed: usize, encoding: &[u8]) {
        let Some((Occurrence { field, index }, text)) = self.missed.get(missed) else {
            return;
        };
        let start = self.encodings.len();
        let end = start + encoding.len();
        let repeat = self.fields.get_mut(*field);
        let repeat = repeat.and_then(|field| field.repeats.get_mut(*index));
        if let Some(repeat) = repeat.filter(|_| end <= STORED_BYTES_MAX) {
            self.encodings.extend_from_slice(encoding);
            (repeat.text, repeat.start, repeat.end) = (text, start, end);
        }
    }

    /// The encoding in this range.
    pub(super) fn encoding(&self, start: usize, end: usize) -> &[u8] {
        &self.encodings[start..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the value repeats. If not, the text itself is stored as its encoding.
    fn is_repeated<'t>(repeats: &mut Repeats<'t>, slot: usize, text: &'t [u8]) -> Option<bool> {
        let occurrence = repeats.occurrence(slot)?;
        let mut cursor = Cursor::new(text);
        if let Some((start, end)) = repeats.skip_repeated(occurrence, &mut cursor) {
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
        for expected in [Some(false), Some(true), Some(true)] {
            repeats.begin();
            for (slot, text) in [(8, "{\"a\":1}"), (8, "{\"b\":1}"), (0, "[]")] {
                let repeated = is_repeated(&mut repeats, slot, text.as_bytes());
                assert_eq!(repeated, expected, "{text}");
            }
        }
        assert_eq!(is_repeated(&mut Repeats::default(), 0, b"{}"), None);
    }

    #[test]
    fn a_field_that_never_repeats_is_rarely_looked_at() {
        let texts: Vec<String> = (0..2000).map(|n| format!("[{n}]")).collect();
        let mut repeats = Repeats::new(1);
        let mut compared = 0;
        for text in &texts {
            repeats.begin();
            let repeated = is_repeated(&mut repeats, 0, text.as_bytes());
            assert_ne!(repeated, Some(true));
            compared += usize::from(repeated.is_some());
        }
        assert!((30..50).contains(&compared), "{compared}");
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
                assert!(repeats.encodings.len() <= STORED_BYTES_MAX);
            }
        }
    }
}
