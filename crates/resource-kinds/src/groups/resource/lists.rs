//! Limits of lists and maps: a list that is too long is refused, and its elements are not checked.

use std::collections::BTreeSet;

use object_model::FieldError;

use crate::validation::field::Field;

type Check<'c> = &'c dyn Fn(&Field<'_, '_>, &mut Vec<FieldError>);

/// Checks a list of at most `max` elements.
pub(super) fn list(at: &Field<'_, '_>, max: usize, check: Check<'_>, errors: &mut Vec<FieldError>) {
    if at.len() > max {
        errors.push(FieldError::too_many(&at.path(), at.len(), max));
        return;
    }
    at.items().for_each(|item| check(&item, errors));
}

/// As [`list`]; each element must have a different key.
pub(super) fn set(
    at: &Field<'_, '_>,
    max: usize,
    key: &dyn Fn(&Field<'_, '_>) -> String,
    check: Check<'_>,
    errors: &mut Vec<FieldError>,
) {
    list(at, max, check, errors);
    if at.len() > max {
        return;
    }
    let mut keys = BTreeSet::new();
    for item in at.items() {
        let key = key(&item);
        if !keys.insert(key.clone()) {
            errors.push(FieldError::duplicate(&item.path(), key));
        }
    }
}

/// The text of an element as its key.
pub(super) fn itself(at: &Field<'_, '_>) -> String {
    at.text().to_owned()
}

/// The `name` of an element as its key.
pub(super) fn by_name(at: &Field<'_, '_>) -> String {
    at.get("name").text().to_owned()
}
