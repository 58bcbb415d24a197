//! Applies a configuration.

use json_tree::{Map, Value};

use super::check::problems;
use super::compare::{Changes, compare};
use super::conflict::{ApplyError, Conflict, named};
use super::form::MergeForm;
use super::last_applied;
use super::managers::{Manager, ManagerFields, Managers, Operation};
use super::merge::merge;
use super::owned::fields_of;
use super::reconcile::reconcile;
use super::set::FieldSet;
use super::track::{note, remove_managed, set_managed, strip};
use super::versions::{ObjectType, OtherVersions, VersionChanges};
use super::{OwnableFields, Writer};

/// The manager that owns the fields from the time before the first apply.
const BEFORE: &str = "before-first-apply";

/// Merges `config` into `live` (`None` if the object does not exist yet), and returns the object with its managed
/// fields.
///
/// # Errors
/// `Malformed` if the configuration does not match the object's type; `Conflicts` if it changes fields of other
/// managers, unless `force` is set.
pub fn apply<'t>(
    live: Option<&Value>,
    config: &Value,
    object_type: impl Into<ObjectType<'t>>,
    writer: &Writer<'_>,
    reach: OwnableFields<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let object_type = object_type.into();
    let form = MergeForm::of_type(object_type.base_type);
    check(form, config)?;
    let nothing = Value::Object(Map::new());
    let mut before = live.unwrap_or(&nothing).clone();
    let recorded = remove_managed(&mut before).to_string();
    let mut managers = Managers::stored(&recorded).unwrap_or_default();
    reconcile(&mut managers, &object_type, writer.api_version);
    if managers.is_empty() && live.is_some() {
        // All existing fields belong to the manager of earlier writes.
        let mut changes = compare(form, &nothing, &before);
        changes.retain_top(|field| reach.has(field));
        let earlier = Writer {
            manager: BEFORE,
            ..*writer
        };
        let version = writer.api_version;
        let mut views = OtherVersions::new(object_type, version, reach, &nothing, &before);
        note(&mut managers, changes, &earlier, &mut views);
    }
    let work = ApplyRequest {
        object_type,
        form,
        live: &before,
        config,
        writer,
        reach,
    };
    let outcome = match work.apply(managers.clone(), force) {
        Err(Refused(conflicts)) if writer.manager == last_applied::KUBECTL => {
            work.take_over(managers, conflicts)
        }
        outcome => outcome,
    };
    let (mut merged, managed) = outcome.map_err(Refused::explained)?;
    if writer.manager == last_applied::KUBECTL {
        last_applied::refresh(&mut merged, config);
    }
    set_managed(&mut merged, managed.as_deref());
    Ok(merged)
}

fn check(form: MergeForm<'_>, config: &Value) -> Result<(), ApplyError> {
    let metadata = &config["metadata"];
    if !metadata["managedFields"].is_null() {
        let text = "metadata.managedFields must be nil";
        return Err(ApplyError::Malformed(text.to_owned()));
    }
    let errors = problems(form, config);
    let text = match errors.as_slice() {
        [] => return Ok(()),
        [only] => only.clone(),
        several => format!("errors:\n  {}", several.join("\n  ")),
    };
    let text_of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text_of(&config["apiVersion"]);
    let slash = if version.contains('/') { "" } else { "/" };
    Err(ApplyError::Malformed(format!(
        "failed to create typed patch object ({}/{}; {slash}{version}, Kind={}): {text}",
        text_of(&metadata["namespace"]),
        text_of(&metadata["name"]),
        text_of(&config["kind"]),
    )))
}

/// A server-side apply of one object.
pub(super) struct ApplyRequest<'a> {
    pub object_type: ObjectType<'a>,
    pub form: MergeForm<'a>,
    pub live: &'a Value,
    config: &'a Value,
    pub writer: &'a Writer<'a>,
    reach: OwnableFields<'a>,
}

/// The fields of other managers that would change.
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

type Outcome<'a> = Result<(Value, Option<String>), Refused<'a>>;

impl<'a> ApplyRequest<'a> {
    /// The merged object and its managed fields.
    fn apply(&self, mut managers: Managers<'a>, force: bool) -> Outcome<'a> {
        let id = Manager::new(self.writer, Operation::Apply);
        let mut applied = fields_of(self.form, self.config).0;
        applied.retain_top(|field| self.reach.has(field));
        let merged = merge(self.form, Some(self.live), Some(self.config)).unwrap_or_default();
        let mut last = managers.0.remove(&id);
        let merged = match &mut last {
            Some(last) => self.prune(merged, last, &applied, &mut managers),
            None => merged,
        };
        let changed = merged != *self.live;
        let mut changes = compare(self.form, self.live, &merged);
        changes.retain_top(|field| self.reach.has(field));
        let (written, reach) = (self.writer.api_version, self.reach);
        let mut views = OtherVersions::new(self.object_type, written, reach, self.live, &merged);
        contest(&mut managers, changes, &mut views, force)?;
        let applied = strip(applied);
        if !applied.is_empty() {
            let mut entry = ManagerFields::new(applied, self.writer.api_version, self.writer.now);
            // An apply without changes is not recorded.
            if let Some(last) = last.filter(|_| !changed) {
                entry.time = last.time;
            }
            managers.0.insert(id, entry);
        }
        managers.forget_empty();
        Ok((merged, managers.encode()))
    }

    /// Applies by force if all conflicts concern fields that the user applied with client-side apply and that are
    /// unchanged since.
    fn take_over(
        &self,
        managers: Managers<'a>,
        conflicts: Vec<(Manager<'a>, FieldSet<'static>)>,
    ) -> Outcome<'a> {
        let Some(applied) = last_applied::configuration(self.live, self.writer.api_version) else {
            return Err(Refused(conflicts));
        };
        let allowed = last_applied::unchanged(&applied, self.live, self.object_type.base_type);
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

/// Removes the changed fields from their managers, if force is allowed.
fn contest<'a>(
    managers: &mut Managers<'a>,
    changes: Changes<'_>,
    views: &mut OtherVersions<'_>,
    force: bool,
) -> Result<(), Refused<'a>> {
    let (changed, removed) = changes.split();
    let changes = (changed.into_owned(), removed.into_owned());
    let mut conflicts = Vec::new();
    managers.0.retain(|manager, entry| {
        let (changed, removed) = if entry.api_version == views.written {
            (&changes.0, &changes.1)
        } else {
            match views.changes(&entry.api_version) {
                VersionChanges::Changes(changed, removed) => (changed, removed),
                VersionChanges::Unknown => return true,
                VersionChanges::Removed => return false,
            }
        };
        let contested = entry.shared(changed);
        if !contested.is_empty() {
            conflicts.push((manager.clone(), contested.into_owned()));
        }
        entry.lose(changed);
        entry.lose(removed);
        true
    });
    if conflicts.is_empty() || force {
        Ok(())
    } else {
        Err(Refused(conflicts))
    }
}
