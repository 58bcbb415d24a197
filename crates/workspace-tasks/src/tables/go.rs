//! The Go types of the Kubernetes API, parsed from their published source: fields with their types, JSON
//! names, protobuf numbers and default markers.
//!
//! The parser supports only the constructs of these files, as `gofmt` formats them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail};

/// The packages below the folder of `k8s.io` modules (`staging/src/k8s.io` of Kubernetes).
const PACKAGES: &[&str] = &[
    "api/admissionregistration/v1",
    "api/apps/v1",
    "api/authentication/v1",
    "api/authorization/v1",
    "api/autoscaling/v1",
    "api/autoscaling/v2",
    "api/batch/v1",
    "api/certificates/v1",
    "api/coordination/v1",
    "api/core/v1",
    "api/discovery/v1",
    "api/events/v1",
    "api/flowcontrol/v1",
    "api/networking/v1",
    "api/node/v1",
    "api/policy/v1",
    "api/rbac/v1",
    "api/resource/v1",
    "api/scheduling/v1",
    "api/storage/v1",
    "api/storagemigration/v1beta1",
    "apiextensions-apiserver/pkg/apis/apiextensions/v1",
    "apimachinery/pkg/apis/meta/v1",
    "kube-aggregator/pkg/apis/apiregistration/v1",
    "metrics/pkg/apis/metrics/v1beta1",
];

/// The core package.
const CORE: &str = "api/core/v1";

/// The package of the metadata.
const META: &str = "apimachinery/pkg/apis/meta/v1";

/// Types with a special form on the wire: package, name, and their name in the tables.
const SPECIAL_FORMS: &[(&str, &str, &str)] = &[
    (META, "Time", "Time"),
    (META, "MicroTime", "MicroTime"),
    (META, "Duration", "Duration"),
    (META, "FieldsV1", "Raw"),
    ("apimachinery/pkg/api/resource", "Quantity", "Quantity"),
    ("apimachinery/pkg/runtime", "RawExtension", "Raw"),
    ("apimachinery/pkg/types", "UID", "string"),
    ("apimachinery/pkg/util/intstr", "IntOrString", "IntOrString"),
    (
        "apiextensions-apiserver/pkg/apis/apiextensions/v1",
        "JSON",
        "Raw",
    ),
];

/// Types of the meta package that are no objects, but the bodies of requests and responses.
const ROOTS: &[&str] = &["DeleteOptions", "ListMeta", "Status"];

/// Objects of the core package that no API server serves.
const NOT_SERVED: &[&str] = &["PodStatusResult", "RangeAllocation"];

/// A type: its package's folder and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeName {
    package: &'static str,
    name: String,
}

impl TypeName {
    /// The name in `types.tsv`, for instance `core/v1.Pod`.
    pub fn message(&self) -> String {
        let mut words = self.package.rsplit('/');
        let (version, group) = (words.next(), words.next());
        let (version, group) = (version.unwrap_or_default(), group.unwrap_or_default());
        format!("{group}/{version}.{}", self.name)
    }

    /// The name in the API document, for instance `io.k8s.api.core.v1.Pod`.
    pub fn definition(&self) -> String {
        format!("io.k8s.{}.{}", self.package.replace('/', "."), self.name)
    }
}

/// A field of a structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The protobuf number; `None` for the embedded `TypeMeta`.
    pub number: Option<u32>,
    /// The JSON name; empty for an embedded structure.
    pub json: String,
    /// Whether JSON omits the field when it is empty.
    pub omitempty: bool,
    pub kind: Kind,
    /// The value of a `+default` marker, as JSON.
    pub default: Option<String>,
}

/// The type of a field, in the terms of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A scalar, or a type of [`SPECIAL_FORMS`].
    Plain(String),
    Structure(TypeName),
    Pointer(Box<Kind>),
    List(Box<Kind>),
    Map(Box<Kind>),
}

impl Kind {
    /// `*`, `[]` and `{}` before the name, as in `types.tsv`.
    pub fn text(&self) -> String {
        match self {
            Self::Plain(name) => name.clone(),
            Self::Structure(name) => name.message(),
            Self::Pointer(inner) => format!("*{}", inner.text()),
            Self::List(inner) => format!("[]{}", inner.text()),
            Self::Map(inner) => format!("{{}}{}", inner.text()),
        }
    }

    fn structure(&self) -> Option<&TypeName> {
        match self {
            Self::Plain(_) => None,
            Self::Structure(name) => Some(name),
            Self::Pointer(inner) | Self::List(inner) | Self::Map(inner) => inner.structure(),
        }
    }
}

/// The structures of which the objects of the API consist.
pub type Structures = BTreeMap<TypeName, Vec<Field>>;

/// Parses the packages and returns the structures of objects: structures with `TypeMeta` and `ObjectMeta`,
/// the roots, and all structures to which these refer.
pub fn read(folder: &Path) -> Result<Structures> {
    let mut source = Source::default();
    for package in PACKAGES {
        source.read_package(folder, package)?;
    }
    let mut pending: Vec<TypeName> = source.objects();
    let mut structures = Structures::new();
    while let Some(name) = pending.pop() {
        if structures.contains_key(&name) {
            continue;
        }
        let fields = source
            .fields(&name)
            .with_context(|| format!("type {}", name.definition()))?;
        pending.extend(
            fields
                .iter()
                .filter_map(|field| field.kind.structure())
                .cloned(),
        );
        structures.insert(name, fields);
    }
    Ok(structures)
}

/// The fields of a structure, including those of embedded structures.
pub fn all_fields<'s>(structures: &'s Structures, name: &TypeName) -> Vec<&'s Field> {
    let direct = structures.get(name).into_iter().flatten();
    direct
        .flat_map(|field| match &field.kind {
            Kind::Structure(inner) if field.json.is_empty() => all_fields(structures, inner),
            _ => vec![field],
        })
        .collect()
}

/// The names of imported packages in one file, with their folders.
type Imports = BTreeMap<String, String>;

#[derive(Debug)]
struct Declaration {
    imports: Rc<Imports>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Structure(Vec<SourceField>),
    Named(String),
}

/// A field as in the source.
#[derive(Debug)]
struct SourceField {
    go_type: String,
    tag: String,
    default: Option<String>,
}

#[derive(Default)]
struct Source {
    declarations: BTreeMap<(&'static str, String), Declaration>,
}

impl Source {
    fn read_package(&mut self, folder: &Path, package: &'static str) -> Result<()> {
        let directory = folder.join(package);
        let entries = fs::read_dir(&directory)
            .with_context(|| format!("read the Go package {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let written =
                name.ends_with(".go") && !name.ends_with("_test.go") && !name.contains("generated");
            if written {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("read {}", path.display()))?;
                self.read_file(package, &text);
            }
        }
        Ok(())
    }

    fn read_file(&mut self, package: &'static str, text: &str) {
        let imports = Rc::new(imports(text));
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let Some((name, rest)) = line
                .strip_prefix("type ")
                .and_then(|declared| declared.split_once(' '))
            else {
                continue;
            };
            let body = if rest == "struct {" {
                Body::Structure(source_fields(&mut lines))
            } else if rest.starts_with("struct") {
                Body::Structure(Vec::new())
            } else {
                let named = rest.split("//").next().unwrap_or_default();
                Body::Named(named.trim_start_matches("= ").trim().to_owned())
            };
            let imports = Rc::clone(&imports);
            let declaration = Declaration { imports, body };
            self.declarations
                .insert((package, name.to_owned()), declaration);
        }
    }

    /// The structures that are objects of the API, and the roots.
    fn objects(&self) -> Vec<TypeName> {
        let is_object = |fields: &[SourceField], package: &str| {
            let has = |type_name: &str| {
                let mut fields = fields.iter();
                fields.any(|field| {
                    field.go_type.trim_start_matches("metav1.") == type_name
                        && (package == META || field.go_type.starts_with("metav1."))
                })
            };
            has("TypeMeta") && has("ObjectMeta")
        };
        self.declarations
            .iter()
            .filter(|((package, name), declaration)| match &declaration.body {
                Body::Structure(fields) => {
                    let served = *package != CORE || !NOT_SERVED.contains(&name.as_str());
                    (is_object(fields, package) && served)
                        || (*package == META && ROOTS.contains(&name.as_str()))
                }
                Body::Named(_) => false,
            })
            .map(|((package, name), _)| TypeName {
                package,
                name: name.clone(),
            })
            .collect()
    }

    fn fields(&self, name: &TypeName) -> Result<Vec<Field>> {
        let key = (name.package, name.name.clone());
        let Some(Declaration { imports, body }) = self.declarations.get(&key) else {
            bail!("is not declared");
        };
        let Body::Structure(fields) = body else {
            bail!("is no structure");
        };
        let read = fields.iter().filter_map(|field| {
            let json = tag(&field.tag, "json")?;
            let (json, options) = json.split_once(',').unwrap_or((json, ""));
            let number = tag(&field.tag, "protobuf")
                .and_then(|protobuf| protobuf.split(',').nth(1)?.parse().ok());
            if json.is_empty() && number.is_none() {
                return None;
            }
            let kind = self
                .kind(name.package, imports, &field.go_type)
                .with_context(|| format!("field {json}"));
            Some(kind.map(|kind| Field {
                number,
                json: json.to_owned(),
                omitempty: options.split(',').any(|option| option == "omitempty"),
                kind,
                default: field.default.clone(),
            }))
        });
        read.collect()
    }

    fn kind(&self, package: &'static str, imports: &Imports, text: &str) -> Result<Kind> {
        if let Some(inner) = text.strip_prefix('*') {
            return Ok(Kind::Pointer(Box::new(self.kind(package, imports, inner)?)));
        }
        if let Some(scalar) = scalar(text) {
            return Ok(Kind::Plain(scalar.to_owned()));
        }
        if let Some(element) = text.strip_prefix("[]") {
            let element = self.element(package, imports, element)?;
            return Ok(Kind::List(Box::new(element)));
        }
        if let Some((_, value)) = text
            .strip_prefix("map[")
            .and_then(|rest| rest.split_once(']'))
        {
            let value = self.element(package, imports, value)?;
            return Ok(Kind::Map(Box::new(value)));
        }
        let (folder, name) = match text.split_once('.') {
            None => (package.to_owned(), text),
            Some((alias, name)) => {
                let folder = imports
                    .get(alias)
                    .with_context(|| format!("package {alias} is not imported"))?;
                (folder.clone(), name)
            }
        };
        let special_form = SPECIAL_FORMS
            .iter()
            .find(|(package, declared, _)| *package == folder && *declared == name);
        if let Some((_, _, form)) = special_form {
            return Ok(Kind::Plain((*form).to_owned()));
        }
        let package = PACKAGES
            .iter()
            .find(|package| **package == folder)
            .with_context(|| format!("package {folder} is not in the list"))?;
        let declaration = self
            .declarations
            .get(&(*package, name.to_owned()))
            .with_context(|| format!("type {folder}.{name} is not declared"))?;
        match &declaration.body {
            Body::Named(inner) => self.kind(package, &declaration.imports, inner),
            Body::Structure(_) => Ok(Kind::Structure(TypeName {
                package,
                name: name.to_owned(),
            })),
        }
    }

    /// The type of an element of a list or map. Protobuf has no lists of lists, so an inner list is a
    /// message.
    fn element(&self, package: &'static str, imports: &Imports, text: &str) -> Result<Kind> {
        Ok(match self.kind(package, imports, text)? {
            Kind::List(_) => Kind::Plain("Items".to_owned()),
            other => other,
        })
    }
}

fn scalar(go_type: &str) -> Option<&'static str> {
    Some(match go_type {
        "string" => "string",
        "bool" => "bool",
        "int32" => "int32",
        "int" | "int64" => "int64",
        "float64" => "double",
        "[]byte" => "bytes",
        _ => return None,
    })
}

/// The imported packages of the `k8s.io` modules: `metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"`.
fn imports(text: &str) -> Imports {
    let named = text.lines().filter_map(|line| {
        let (before, path) = line.split_once("\"k8s.io/")?;
        let path = path.strip_suffix('"')?;
        let alias = before.trim_start_matches("import ").trim();
        let alias = match alias {
            "" => path.rsplit('/').next()?,
            alias => alias,
        };
        Some((alias.to_owned(), path.to_owned()))
    });
    named.collect()
}

/// The fields of a structure up to its closing bracket.
fn source_fields<'t>(lines: &mut impl Iterator<Item = &'t str>) -> Vec<SourceField> {
    let mut fields = Vec::new();
    let mut default = None;
    for line in lines.take_while(|line| !line.starts_with('}')) {
        let line = line.trim();
        if let Some(comment) = line.strip_prefix("//") {
            if let Some(value) = comment.trim().strip_prefix("+default=") {
                default = Some(value.to_owned());
            }
            continue;
        }
        let Some((head, tagged)) = line.split_once('`') else {
            continue;
        };
        if let Some(go_type) = head.split_whitespace().last() {
            fields.push(SourceField {
                go_type: go_type.to_owned(),
                tag: tagged.split('`').next().unwrap_or_default().to_owned(),
                default: default.take(),
            });
        }
    }
    fields
}

/// The value of a key in a structure tag: `json:"name,omitempty" protobuf:"bytes,1,opt,name=name"`.
fn tag<'t>(tag: &'t str, key: &str) -> Option<&'t str> {
    let (_, after) = tag.split_once(&format!("{key}:\""))?;
    Some(after.split('"').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Protocol is a name.
type Protocol string

type Extra []string

type Port struct {
	// +default="TCP"
	Protocol Protocol `json:"protocol,omitempty" protobuf:"bytes,4,opt,name=protocol"`
	// Where `it` goes.
	Target *intstr.IntOrString `json:"target" protobuf:"bytes,2,opt,name=target"`
}

type Harbour struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`
	Port `json:",inline" protobuf:"bytes,2,opt,name=port"`
	Ports []Port `json:"ports,omitempty" protobuf:"bytes,3,rep,name=ports"`
	Extra map[string]Extra `json:"extra" protobuf:"bytes,5,rep,name=extra"`
	Data []byte `json:"data" protobuf:"bytes,6,opt,name=data"`
}
"#;

    const META_FILE: &str = "package v1\ntype ObjectMeta struct {\n\
        \tName string `json:\"name,omitempty\" protobuf:\"bytes,1,opt,name=name\"`\n}\n";

    fn name(package: &'static str, name: &str) -> TypeName {
        TypeName {
            package,
            name: name.to_owned(),
        }
    }

    /// findings A16: a field's row depends on its type and its structure.
    #[test]
    fn fields_have_numbers_names_types_and_defaults() {
        let mut source = Source::default();
        source.read_file("api/core/v1", FILE);
        source.read_file(META, META_FILE);
        assert_eq!(source.objects(), [name("api/core/v1", "Harbour")]);
        let fields = source.fields(&name("api/core/v1", "Harbour")).unwrap();
        let rows: Vec<String> = fields
            .iter()
            .map(|field| {
                let number = field.number.unwrap();
                let Field {
                    json, omitempty, ..
                } = field;
                format!("{number} {json} {omitempty} {}", field.kind.text())
            })
            .collect();
        assert_eq!(
            rows,
            [
                "1 metadata true meta/v1.ObjectMeta",
                "2  false core/v1.Port",
                "3 ports true []core/v1.Port",
                "5 extra false {}Items",
                "6 data false bytes",
            ]
        );
        let fields = source.fields(&name("api/core/v1", "Port")).unwrap();
        assert_eq!(fields[0].default.as_deref(), Some("\"TCP\""));
        assert_eq!(fields[0].kind.text(), "string");
        assert_eq!(fields[1].kind.text(), "*IntOrString");
        assert_eq!(fields[1].default, None);
    }

    #[test]
    fn names_are_those_of_the_tables_and_of_the_document() {
        let meta = name(META, "ObjectMeta");
        assert_eq!(meta.message(), "meta/v1.ObjectMeta");
        assert_eq!(
            meta.definition(),
            "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
        let pod = name("api/core/v1", "Pod");
        assert_eq!(pod.definition(), "io.k8s.api.core.v1.Pod");
    }

    #[test]
    fn a_type_that_is_not_known_is_an_error() {
        let mut source = Source::default();
        source.read_file("api/core/v1", FILE);
        let error = source.kind("api/core/v1", &Imports::new(), "Boat");
        assert!(format!("{:#}", error.unwrap_err()).contains("core/v1.Boat is not declared"));
    }
}
