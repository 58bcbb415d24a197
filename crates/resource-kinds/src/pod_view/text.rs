//! The text of a pod, parsed in place: the fields of a view. All other fields, which are most of a pod, are skipped.

use std::borrow::Cow;

use json_text::{Cursor, Sequence, SyntaxError};

/// A label or an annotation.
pub(super) type Label<'t> = (Cow<'t, str>, Cow<'t, str>);

/// The parts of a pod's text.
#[derive(Default)]
pub(super) struct PodText<'t> {
    pub metadata: MetadataText<'t>,
    pub spec: Option<SpecText<'t>>,
    /// The text of the whole status.
    pub status: Option<&'t [u8]>,
}

/// The metadata of a pod. Absent texts are empty.
#[derive(Default)]
pub(super) struct MetadataText<'t> {
    pub name: Cow<'t, str>,
    pub namespace: Cow<'t, str>,
    pub uid: Cow<'t, str>,
    pub resource_version: Cow<'t, str>,
    pub generation: Option<i64>,
    pub labels: Vec<Label<'t>>,
    pub annotations: Vec<Label<'t>>,
    pub controller: Option<OwnerText<'t>>,
    pub finalizers: Vec<Cow<'t, str>>,
    pub created: Cow<'t, str>,
    pub deleted: Cow<'t, str>,
    pub grace: Option<i64>,
}

/// An owner reference.
#[derive(Default)]
pub(super) struct OwnerText<'t> {
    pub api_version: Cow<'t, str>,
    pub kind: Cow<'t, str>,
    pub name: Cow<'t, str>,
    pub uid: Cow<'t, str>,
    pub controller: bool,
}

/// The spec of a pod.
#[derive(Default)]
pub(super) struct SpecText<'t> {
    pub node: Cow<'t, str>,
    pub hostname: Cow<'t, str>,
    pub claims: Vec<ClaimText<'t>>,
    /// The text of a spec with only the fields for scheduling, diagnosis and the loss of a node. Pods of one template
    /// have equal texts.
    pub shared: Vec<u8>,
}

/// A claim that a volume uses: its name, or the name of the ephemeral volume for which it is created.
pub(super) struct ClaimText<'t> {
    pub name: Cow<'t, str>,
    pub ephemeral: bool,
}

/// Usual length of the shared text.
const SHARED_BYTES: usize = 512;

impl<'t> PodText<'t> {
    pub(super) fn read(pod: &'t [u8]) -> Result<Self, SyntaxError> {
        let mut text = Self::default();
        let mut cursor = Cursor::new(pod);
        let cursor = &mut cursor;
        let mut members = cursor.object()?;
        while let Some(key) = members.next_key(cursor)? {
            match key.raw() {
                b"metadata" => text.metadata = metadata(cursor)?,
                b"spec" => text.spec = spec(cursor)?,
                b"status" => text.status = Some(cursor.skip()?),
                _ => drop(cursor.skip()?),
            }
        }
        Ok(text)
    }
}

fn metadata<'t>(cursor: &mut Cursor<'t>) -> Result<MetadataText<'t>, SyntaxError> {
    let mut metadata = MetadataText::default();
    let Some(mut members) = object(cursor)? else {
        return Ok(metadata);
    };
    while let Some(key) = members.next_key(cursor)? {
        match key.raw() {
            b"name" => metadata.name = string(cursor)?,
            b"namespace" => metadata.namespace = string(cursor)?,
            b"uid" => metadata.uid = string(cursor)?,
            b"resourceVersion" => metadata.resource_version = string(cursor)?,
            b"generation" => metadata.generation = number(cursor)?,
            b"labels" => metadata.labels = strings_by_key(cursor, |_| true)?,
            b"annotations" => {
                let is_decisive = |key: &str| super::ANNOTATIONS.contains(&key);
                metadata.annotations = strings_by_key(cursor, is_decisive)?;
            }
            b"ownerReferences" => metadata.controller = controller(cursor)?,
            b"finalizers" => {
                let mut all = array(cursor)?;
                while let Some(elements) = &mut all
                    && elements.next(cursor)?
                {
                    metadata.finalizers.push(string(cursor)?);
                }
            }
            b"creationTimestamp" => metadata.created = string(cursor)?,
            b"deletionTimestamp" => metadata.deleted = string(cursor)?,
            b"deletionGracePeriodSeconds" => metadata.grace = number(cursor)?,
            _ => drop(cursor.skip()?),
        }
    }
    Ok(metadata)
}

/// The owner reference with `controller: true`.
fn controller<'t>(cursor: &mut Cursor<'t>) -> Result<Option<OwnerText<'t>>, SyntaxError> {
    let mut controlling = None;
    let mut all = array(cursor)?;
    while let Some(owners) = &mut all
        && owners.next(cursor)?
    {
        let mut owner = OwnerText::default();
        let mut members = cursor.object()?;
        while let Some(key) = members.next_key(cursor)? {
            match key.raw() {
                b"apiVersion" => owner.api_version = string(cursor)?,
                b"kind" => owner.kind = string(cursor)?,
                b"name" => owner.name = string(cursor)?,
                b"uid" => owner.uid = string(cursor)?,
                b"controller" => owner.controller = cursor.skip()? == b"true",
                _ => drop(cursor.skip()?),
            }
        }
        controlling = controlling.or(Some(owner).filter(|owner| owner.controller));
    }
    Ok(controlling)
}

fn spec<'t>(cursor: &mut Cursor<'t>) -> Result<Option<SpecText<'t>>, SyntaxError> {
    let Some(mut members) = object(cursor)? else {
        return Ok(None);
    };
    let mut spec = SpecText::default();
    let mut shared = ReducedObject::with_capacity(SHARED_BYTES);
    while let Some(key) = members.next_key(cursor)? {
        match key.raw() {
            b"nodeName" => spec.node = string(cursor)?,
            b"hostname" => spec.hostname = string(cursor)?,
            b"volumes" => shared.list(b"volumes", cursor, |volume, cursor| {
                spec.claims.extend(reduce_volume(volume, cursor)?);
                Ok(())
            })?,
            b"containers" => shared.list(b"containers", cursor, reduce_container)?,
            b"initContainers" => shared.list(b"initContainers", cursor, reduce_container)?,
            b"preemptionPolicy" => {
                // The default value is not stored.
                let policy = cursor.skip()?;
                if policy == br#""Never""# {
                    shared.member(key.raw(), policy);
                }
            }
            b"affinity"
            | b"hostNetwork"
            | b"nodeSelector"
            | b"overhead"
            | b"priority"
            | b"readinessGates"
            | b"resourceClaims"
            | b"resources"
            | b"restartPolicy"
            | b"schedulerName"
            | b"schedulingGates"
            | b"subdomain"
            | b"tolerations"
            | b"topologySpreadConstraints" => shared.member(key.raw(), cursor.skip()?),
            _ => drop(cursor.skip()?),
        }
    }
    spec.shared = shared.finished();
    Ok(Some(spec))
}

/// Copies the fields of a container that views contain.
fn reduce_container(
    container: &mut ReducedObject,
    cursor: &mut Cursor<'_>,
) -> Result<(), SyntaxError> {
    let mut members = cursor.object()?;
    while let Some(key) = members.next_key(cursor)? {
        match key.raw() {
            b"image" | b"name" | b"ports" | b"readinessProbe" | b"resources" | b"restartPolicy"
            | b"startupProbe" => container.member(key.raw(), cursor.skip()?),
            b"lifecycle" => {
                let mut hooks = object(cursor)?;
                while let Some(members) = &mut hooks
                    && let Some(hook) = members.next_key(cursor)?
                {
                    let action = cursor.skip()?;
                    if hook.is("postStart") {
                        let only = [&br#"{"postStart":"#[..], action, b"}"].concat();
                        container.member(b"lifecycle", &only);
                    }
                }
            }
            _ => drop(cursor.skip()?),
        }
    }
    Ok(())
}

/// Copies the name of a volume that is a directory of the node: a pod with such a volume cannot move with its set to
/// another node. Other volumes are not copied; returns the claim that a volume uses.
fn reduce_volume<'t>(
    volume: &mut ReducedObject,
    cursor: &mut Cursor<'t>,
) -> Result<Option<ClaimText<'t>>, SyntaxError> {
    let (mut name, mut quoted) = (Cow::default(), &b""[..]);
    let (mut directory, mut ephemeral, mut claim) = (None, false, None);
    let is_set = |value: &&[u8]| *value != b"null";
    let mut members = cursor.object()?;
    while let Some(key) = members.next_key(cursor)? {
        match key.raw() {
            b"name" => {
                cursor.peek()?;
                let start = cursor.offset();
                name = string(cursor)?;
                quoted = cursor.since(start);
            }
            b"hostPath" => directory = Some(cursor.skip()?).filter(is_set),
            b"ephemeral" => ephemeral = is_set(&cursor.skip()?),
            b"persistentVolumeClaim" => {
                let mut source = object(cursor)?;
                claim = source.as_ref().map(|_| Cow::default());
                while let Some(members) = &mut source
                    && let Some(key) = members.next_key(cursor)?
                {
                    match key.raw() {
                        b"claimName" => claim = Some(string(cursor)?),
                        _ => drop(cursor.skip()?),
                    }
                }
            }
            _ => drop(cursor.skip()?),
        }
    }
    if let Some(directory) = directory {
        volume.member(b"name", quoted);
        volume.member(b"hostPath", directory);
    }
    let used = |name, ephemeral| ClaimText { name, ephemeral };
    let claim = claim.map(|name| used(name, false));
    Ok(claim.or_else(|| ephemeral.then(|| used(name, true))))
}

/// The text of an object with some members of another object.
struct ReducedObject(Vec<u8>);

impl ReducedObject {
    fn with_capacity(bytes: usize) -> Self {
        let mut text = Vec::with_capacity(bytes);
        text.push(b'{');
        Self(text)
    }

    fn separate(&mut self) {
        if !matches!(self.0.last(), Some(b'{' | b'[')) {
            self.0.push(b',');
        }
    }

    /// Adds a member: a key as it is between its quotes, and a value.
    fn member(&mut self, key: &[u8], value: &[u8]) {
        self.separate();
        self.0.push(b'"');
        self.0.extend_from_slice(key);
        self.0.extend_from_slice(b"\":");
        self.0.extend_from_slice(value);
    }

    /// Adds the elements of the next list, each reduced. Elements without remaining members are skipped.
    fn list<'t>(
        &mut self,
        key: &[u8],
        cursor: &mut Cursor<'t>,
        mut reduce: impl FnMut(&mut Self, &mut Cursor<'t>) -> Result<(), SyntaxError>,
    ) -> Result<(), SyntaxError> {
        let Some(mut elements) = array(cursor)? else {
            return Ok(());
        };
        let before = self.0.len();
        self.member(key, b"[");
        let first = self.0.len();
        while elements.next(cursor)? {
            let start = self.0.len();
            self.separate();
            self.0.push(b'{');
            let empty = self.0.len();
            reduce(self, cursor)?;
            match self.0.len() == empty {
                true => self.0.truncate(start),
                false => self.0.push(b'}'),
            }
        }
        match self.0.len() == first {
            true => self.0.truncate(before),
            false => self.0.push(b']'),
        }
        Ok(())
    }

    fn finished(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

/// Whether the next value is null, which counts as absent; the null is consumed.
fn is_null(cursor: &mut Cursor<'_>) -> Result<bool, SyntaxError> {
    let is_null = cursor.peek()? == b'n';
    if is_null {
        cursor.null()?;
    }
    Ok(is_null)
}

fn object(cursor: &mut Cursor<'_>) -> Result<Option<Sequence>, SyntaxError> {
    match is_null(cursor)? {
        true => Ok(None),
        false => cursor.object().map(Some),
    }
}

fn array(cursor: &mut Cursor<'_>) -> Result<Option<Sequence>, SyntaxError> {
    match is_null(cursor)? {
        true => Ok(None),
        false => cursor.array().map(Some),
    }
}

/// A string; empty if it is absent.
fn string<'t>(cursor: &mut Cursor<'t>) -> Result<Cow<'t, str>, SyntaxError> {
    match is_null(cursor)? {
        true => Ok(Cow::default()),
        false => cursor.string()?.decode(),
    }
}

fn number(cursor: &mut Cursor<'_>) -> Result<Option<i64>, SyntaxError> {
    if is_null(cursor)? {
        return Ok(None);
    }
    let number = cursor.number()?;
    let number = number.parse().map(Some);
    number.map_err(|_| SyntaxError::Unexpected(cursor.offset()))
}

/// The members of an object of strings that match, sorted by key.
fn strings_by_key<'t>(
    cursor: &mut Cursor<'t>,
    is_match: impl Fn(&str) -> bool,
) -> Result<Vec<Label<'t>>, SyntaxError> {
    let mut all = Vec::new();
    let Some(mut members) = object(cursor)? else {
        return Ok(all);
    };
    while let Some(key) = members.next_key(cursor)? {
        let key = key.decode()?;
        match is_match(&key) {
            true => all.push((key, string(cursor)?)),
            false => drop(cursor.skip()?),
        }
    }
    all.sort_unstable();
    Ok(all)
}
