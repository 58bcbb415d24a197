//! A field of an object: its value and its path, so that a check can report errors with the path. The value of an
//! absent field is null.

use json_text::{descend, member};
use json_tree::{Map, Value};
use object_model::{FieldError, FieldPath};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a, 'p> {
    pub(crate) value: &'a Value,
    chain: PathChain<'p>,
}

/// The path of a field, from the inner field to the outer field. Most fields are valid, so the text is only built for
/// an error.
#[derive(Clone, Copy, Debug)]
struct PathChain<'p> {
    of: Option<&'p PathChain<'p>>,
    step: Step<'p>,
}

/// The step from a field to a field inside of it.
#[derive(Clone, Copy, Debug)]
enum Step<'p> {
    /// No step: the whole object.
    Whole,
    /// Names of fields, separated by dots.
    Names(&'p str),
    Key(&'p str),
    Index(usize),
}

impl PathChain<'_> {
    fn path(&self) -> FieldPath {
        let of = self.of.map_or_else(FieldPath::default, PathChain::path);
        match self.step {
            Step::Whole => of,
            Step::Names(names) => of.child(names),
            Step::Key(key) => of.key(key),
            Step::Index(index) => of.index(index),
        }
    }
}

impl<'a, 'p> Field<'a, 'p> {
    /// The whole object.
    pub(crate) fn root(value: &'a Value) -> Self {
        Self {
            value,
            chain: PathChain {
                of: None,
                step: Step::Whole,
            },
        }
    }

    /// The field of an object at a path of names that are separated by dots.
    pub(crate) fn of(object: &'a Value, names: &'p str) -> Self {
        Self {
            value: descend(object, names),
            chain: PathChain {
                of: None,
                step: Step::Names(names),
            },
        }
    }

    /// The field with another value.
    pub(crate) fn with<'b>(&self, value: &'b Value) -> Field<'b, 'p> {
        Field {
            value,
            chain: self.chain,
        }
    }

    /// The path, for an error message.
    pub(crate) fn path(&self) -> FieldPath {
        self.chain.path()
    }

    pub(crate) fn get<'s>(&'s self, name: &'s str) -> Field<'a, 's> {
        debug_assert!(!name.contains('.'), "{name} is a path");
        self.within(Step::Names(name), member(self.value, name))
    }

    /// The field at a path of names that are separated by dots.
    pub(crate) fn get_path<'s>(&'s self, names: &'s str) -> Field<'a, 's> {
        self.within(Step::Names(names), descend(self.value, names))
    }

    /// The entry of a map at a key, which may contain dots.
    pub(crate) fn get_key<'s>(&'s self, key: &'s str) -> Field<'a, 's> {
        self.within(Step::Key(key), member(self.value, key))
    }

    fn within<'s>(&'s self, step: Step<'s>, value: &'a Value) -> Field<'a, 's> {
        Field {
            value,
            chain: PathChain {
                of: Some(&self.chain),
                step,
            },
        }
    }

    pub(crate) fn items<'s>(&'s self) -> impl Iterator<Item = Field<'a, 's>> {
        let elements = self.value.as_array().map_or(&[][..], Vec::as_slice);
        let numbered = elements.iter().enumerate();
        numbered.map(|(index, value)| self.within(Step::Index(index), value))
    }

    /// The entries of a map, each with its key.
    pub(crate) fn entries<'s>(&'s self) -> impl Iterator<Item = (&'a str, Field<'a, 's>)>
    where
        'a: 's,
    {
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(|(key, value)| (key.as_str(), self.within(Step::Key(key), value)))
    }

    /// The map; `None` if the value has another type.
    pub(crate) fn map(&self) -> Option<&'a Map<String, Value>> {
        self.value.as_object()
    }

    /// The text; empty if the value is absent or has another type.
    pub(crate) fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// The whole number; `None` if the value has another type.
    pub(crate) fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub(crate) fn is_true(&self) -> bool {
        self.value.as_bool() == Some(true)
    }

    /// The length of the list; 0 if it is not a list.
    pub(crate) fn len(&self) -> usize {
        self.value.as_array().map_or(0, Vec::len)
    }

    /// Whether the value is not null.
    pub(crate) fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether the value is absent or empty.
    pub(crate) fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        }
    }

    pub(crate) fn required(&self, detail: &str) -> FieldError {
        FieldError::required(&self.path(), detail)
    }

    pub(crate) fn forbidden(&self, detail: impl Into<String>) -> FieldError {
        FieldError::forbidden(&self.path(), detail)
    }

    pub(crate) fn invalid(&self, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(&self.path(), self.value.clone(), detail)
    }

    pub(crate) fn duplicate(&self) -> FieldError {
        FieldError::duplicate(&self.path(), self.value.clone())
    }

    /// As [`not_supported`](Self::not_supported), with the allowed values in their given order.
    pub(crate) fn not_among(&self, allowed: &[&str]) -> FieldError {
        FieldError::not_among(&self.path(), self.value.clone(), allowed)
    }

    pub(crate) fn not_supported(&self, allowed: &[&str]) -> FieldError {
        FieldError::not_supported(&self.path(), self.value.clone(), allowed)
    }
}

/// Checks that many fields share. Each check adds to a list of errors.
pub(crate) trait Rules {
    /// Applies a name check to the text of a field.
    fn check_text(&mut self, at: &Field<'_, '_>, check: fn(&str) -> Vec<String>);
    /// As [`check_text`](Self::check_text); an empty text is `Required`.
    fn check_required_text(&mut self, at: &Field<'_, '_>, check: fn(&str) -> Vec<String>);
    /// As [`check_text`](Self::check_text), unless the text is empty.
    fn check_text_if_set(&mut self, at: &Field<'_, '_>, check: fn(&str) -> Vec<String>);
    /// Checks that the number, if present, is not negative.
    fn check_not_negative(&mut self, at: &Field<'_, '_>);
    /// Checks that the text is one of the allowed values; an empty text is `Required`.
    fn check_one_of(&mut self, at: &Field<'_, '_>, allowed: &[&str]);
    /// As [`check_one_of`](Self::check_one_of); the error lists the values in their given order.
    fn check_among(&mut self, at: &Field<'_, '_>, allowed: &[&str]);
    /// As [`check_one_of`](Self::check_one_of), unless the value is absent.
    fn check_one_of_if_set(&mut self, at: &Field<'_, '_>, allowed: &[&str]);
    /// Checks that the value is unchanged.
    fn check_unchanged(&mut self, new: &Field<'_, '_>, old: &Field<'_, '_>);
}

/// The message for an immutable field.
pub(crate) const IMMUTABLE: &str = "field is immutable";
/// The message for a negative number.
pub(crate) const NEGATIVE: &str = "must be greater than or equal to 0";

impl Rules for Vec<FieldError> {
    fn check_text(&mut self, at: &Field<'_, '_>, check: fn(&str) -> Vec<String>) {
        let text = at.text();
        let clauses = check(text).into_iter();
        self.extend(clauses.map(|clause| FieldError::invalid(&at.path(), text, clause)));
    }

    fn check_required_text(&mut self, at: &Field<'_, '_>, check: fn(&str) -> Vec<String>) {
        if at.is_empty() {
            self.push(at.required(""));
        } else {
            self.check_text(at, check);
        }
    }

    fn check_text_if_set(&mut self, at: &Field<'_, '_>, check: fn(&str) -> Vec<String>) {
        if !at.text().is_empty() {
            self.check_text(at, check);
        }
    }

    fn check_not_negative(&mut self, at: &Field<'_, '_>) {
        if at.int().is_some_and(|number| number < 0) {
            self.push(at.invalid(NEGATIVE));
        }
    }

    fn check_one_of(&mut self, at: &Field<'_, '_>, allowed: &[&str]) {
        if at.is_empty() {
            self.push(at.required(""));
        } else if !allowed.contains(&at.text()) {
            self.push(at.not_supported(allowed));
        }
    }

    fn check_among(&mut self, at: &Field<'_, '_>, allowed: &[&str]) {
        if at.is_empty() {
            self.push(at.required(""));
        } else if !allowed.contains(&at.text()) {
            self.push(at.not_among(allowed));
        }
    }

    fn check_one_of_if_set(&mut self, at: &Field<'_, '_>, allowed: &[&str]) {
        if !at.is_empty() {
            self.check_one_of(at, allowed);
        }
    }

    fn check_unchanged(&mut self, new: &Field<'_, '_>, old: &Field<'_, '_>) {
        if new.value != old.value {
            self.push(new.invalid(IMMUTABLE));
        }
    }
}
