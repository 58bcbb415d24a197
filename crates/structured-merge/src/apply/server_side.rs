//! Applying a configuration.

use openapi_schema::TypeRef;
use serde_json::{Map, Value};

use super::check::problems;
use super::compare::{Changes, compare};
use super::conflict::{ApplyError, Conflict, named};
use super::form::Form;
use super::last_applied;
use super::managers::{Entry, Manager, Managers, Operation};
use super::merge::merge;
use super::owned::{fields_of, with_named_fields};
use super::path::Step;
use super::remove::remove;
use super::set::{FieldSet, Node};
use super::track::{note, set_managed, strip, take_managed};
use super::{Reach, Writer};

/// Who owned what was there before anybody applied.
const BEFORE: &str = "before-first-apply";

/// Merges `config` into `live` (`None` if there is no such object yet), and returns the object
/// with its managed fields.
///
/// # Errors
/// `Malformed` if the configuration is not of the object's type; `Conflicts` if it changes what
/// others own, unless by `force`.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    object_type: TypeRef<'_>,
    writer: &Writer<'_>,
    reach: Reach<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let form = Form::of_type(object_type);
    check(form, config)?;
    let nothing = Value::Object(Map::new());
    let mut before = live.unwrap_or(&nothing).clone();
    let recorded = take_managed(&mut before);
    let mut managers = Managers::stored(recorded).unwrap_or_default();
    if managers.is_empty() && live.is_some() {
        // All that is there belongs to those who came before anybody applied.
        let mut changes = compare(form, &nothing, &before);
        changes.retain_top(|field| reach.has(field));
        let earlier = Writer {
            manager: BEFORE,
            ..*writer
        };
        note(&mut managers, changes, &earlier);
    }
    let work = Work {
        form,
        live: &before,
        config,
        writer,
        reach,
    };
    let outcome = match work.apply(managers.clone(), force) {
        Err(Refused(conflicts)) if writer.manager == last_applied::KUBECTL => {
            work.take_over(managers, conflicts, object_type)
        }
        outcome => outcome,
    };
    let (mut merged, managed) = outcome.map_err(Refused::explained)?;
    if writer.manager == last_applied::KUBECTL {
        last_applied::refresh(&mut merged, config);
    }
    set_managed(&mut merged, managed);
    Ok(merged)
}

fn check(form: Form<'_>, config: &Value) -> Result<(), ApplyError> {
    let metadata = &config["metadata"];
    if !metadata["managedFields"].is_null() {
        let text = "metadata.managedFields must be nil";
        return Err(ApplyError::Malformed(text.to_owned()));
    }
    let found = problems(form, config);
    let text = match found.as_slice() {
        [] => return Ok(()),
        [only] => only.clone(),
        several => format!("errors:\n  {}", several.join("\n  ")),
    };
    let shown = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = shown(&config["apiVersion"]);
    let slash = if version.contains('/') { "" } else { "/" };
    Err(ApplyError::Malformed(format!(
        "failed to create typed patch object ({}/{}; {slash}{version}, Kind={}): {text}",
        shown(&metadata["namespace"]),
        shown(&metadata["name"]),
        shown(&config["kind"]),
    )))
}

/// One apply.
struct Work<'a, 's> {
    form: Form<'s>,
    live: &'a Value,
    config: &'a Value,
    writer: &'a Writer<'a>,
    reach: Reach<'a>,
}

/// What others own of what would change.
struct Refused<'a>(Vec<(Manager<'a>, FieldSet<'static>)>);

impl Refused<'_> {
    fn explained(self) -> ApplyError {
        let conflicts = self.0.iter().flat_map(|(manager, fields)| {
            let manager = named(manager);
            fields.paths().into_iter().map(move |field| Conflict {
                manager: manager.clone(),
                field,
            })
        });
        ApplyError::Conflicts(conflicts.collect())
    }
}

type Outcome<'a> = Result<(Value, Value), Refused<'a>>;

impl<'a> Work<'a, '_> {
    /// The merged object and its managed fields.
    fn apply(&self, mut managers: Managers<'a>, force: bool) -> Outcome<'a> {
        let id = Manager::of(self.writer, Operation::Apply);
        let mut own = fields_of(self.form, self.config).0;
        own.retain_top(|field| self.reach.has(field));
        let merged = merge(self.form, Some(self.live), Some(self.config)).unwrap_or_default();
        let mut last = managers.0.remove(&id);
        let merged = match &mut last {
            Some(last) => self.prune(merged, last.fields(), &own, &mut managers),
            None => merged,
        };
        let changed = merged != *self.live;
        let mut changes = compare(self.form, self.live, &merged);
        changes.retain_top(|field| self.reach.has(field));
        contest(&mut managers, changes, force)?;
        let own = strip(own);
        if !own.is_empty() {
            let mut entry = Entry::new(own, self.writer.api_version, self.writer.now);
            // What changes nothing is no news.
            if let Some(last) = last.filter(|_| !changed) {
                entry.time = last.time;
            }
            managers.0.insert(id, entry);
        }
        managers.forget_empty();
        Ok((merged, managers.encode()))
    }

    /// Takes out what the manager applied before and no longer does, unless somebody else owns it.
    fn prune(
        &self,
        merged: Value,
        last: &FieldSet<'a>,
        own: &FieldSet<'_>,
        others: &mut Managers<'a>,
    ) -> Value {
        if last.is_subset(own) {
            return merged;
        }
        let all = |set: &FieldSet<'_>| with_named_fields(set, self.form).into_owned();
        let present = |value: &Value| all(&fields_of(self.form, value).0);
        let last = all(last);
        let mut kept = own.union(&identity()).into_owned();
        for entry in others.0.values_mut() {
            kept = kept.union(&entry.fields().clone().into_owned());
        }
        let before = present(&merged);
        let pruned = remove(self.form, &merged, &last);
        // Back comes what somebody owns, though it went with what held it …
        let gone = before.difference(&present(&pruned).union(&all(&kept)));
        let pruned = remove(self.form, &merged, &gone);
        // … and what nobody owns: it was never this manager's to take away.
        let gone = before.difference(&present(&pruned)).intersection(&last);
        remove(self.form, &merged, &gone)
    }

    /// Applies by force if all conflicts are about what the same user applied before through the
    /// client, and has not changed since.
    fn take_over(
        &self,
        managers: Managers<'a>,
        conflicts: Vec<(Manager<'a>, FieldSet<'static>)>,
        object_type: TypeRef<'_>,
    ) -> Outcome<'a> {
        let Some(applied) = last_applied::configuration(self.live, self.writer.api_version) else {
            return Err(Refused(conflicts));
        };
        let allowed = last_applied::unchanged(&applied, self.live, object_type);
        let left: Vec<_> = conflicts
            .into_iter()
            .map(|(manager, fields)| (manager, fields.difference(&allowed)))
            .filter(|(_, fields)| !fields.is_empty())
            .collect();
        if left.is_empty() {
            self.apply(managers, true)
        } else {
            Err(Refused(left))
        }
    }
}

/// The object's metadata: it is never anybody's to take away as a whole.
fn identity() -> FieldSet<'static> {
    FieldSet::of(vec![Node {
        step: Step::Field("metadata".into()),
        member: true,
        below: FieldSet::default(),
    }])
}

/// Takes what changes from those who own it, if they may be made to give it up.
fn contest<'a>(
    managers: &mut Managers<'a>,
    changes: Changes<'_>,
    force: bool,
) -> Result<(), Refused<'a>> {
    let (changed, removed) = changes.split();
    let (changed, removed) = (changed.into_owned(), removed.into_owned());
    let mut conflicts = Vec::new();
    for (manager, entry) in &mut managers.0 {
        let contested = entry.shared(&changed);
        if !contested.is_empty() {
            conflicts.push((manager.clone(), contested.into_owned()));
        }
        entry.lose(&changed);
        entry.lose(&removed);
    }
    if conflicts.is_empty() || force {
        Ok(())
    } else {
        Err(Refused(conflicts))
    }
}
