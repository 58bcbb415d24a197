//! The modules, types and functions of the crates, and the resolution of their paths.

use std::collections::{HashMap, HashSet};

use syn::{Block, Item, Signature, UseTree};

/// A type: the path of its definition, and its generic arguments. References and lifetimes are left out; a slice has
/// the path `[]`, a tuple `()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    pub path: String,
    pub args: Vec<Type>,
}

impl Type {
    pub fn plain(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
        }
    }

    /// The last segment of the path.
    pub fn name(&self) -> &str {
        self.path.rsplit("::").next().unwrap_or_default()
    }
}

/// A function or method with a body.
pub struct Function {
    /// `crate::module::name` or `crate::module::Type::name`.
    pub path: String,
    /// The path of the file.
    pub file: String,
    pub module: String,
    /// The path of the type of a method.
    pub self_type: Option<String>,
    pub signature: Signature,
    pub body: Block,
    /// Written type of the result, resolved.
    pub result: Option<Type>,
}

/// The imports of a module.
#[derive(Default)]
struct Imports {
    /// The written paths, by the names that they introduce.
    names: HashMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
}

#[derive(Default)]
pub struct Index {
    pub functions: Vec<Function>,
    by_path: HashMap<String, usize>,
    /// The paths of modules, types and functions.
    items: HashSet<String>,
    imports: HashMap<String, Imports>,
    /// Fields of structs with their types, by the path of the struct.
    fields: HashMap<String, Vec<(String, Type)>>,
    /// Implementations whose types are not resolved yet, with their files and modules.
    implementations: Vec<(String, String, syn::ItemImpl)>,
    /// Structs whose fields are not resolved yet, with their modules.
    unresolved: Vec<(String, String, syn::Fields)>,
}

/// Imports are followed at most this deep, because imports by `*` can form a circle.
const DEPTH_MAX: u32 = 8;

impl Index {
    /// The index of these files; each is a path and a text.
    pub fn new<'f>(files: impl IntoIterator<Item = (&'f str, String)>) -> Self {
        let mut index = Self::default();
        for (path, text) in files {
            // A file that the compiler refuses is reported by the compiler.
            if let (Some(module), Ok(file)) = (module_of(path), syn::parse_file(&text)) {
                index.items.insert(module.clone());
                index.add_items(path, &module, file.items);
            }
        }
        index.add_implementations();
        let unresolved = std::mem::take(&mut index.unresolved);
        for (path, module, fields) in unresolved {
            let fields = fields.iter().enumerate().filter_map(|(number, field)| {
                let name = field.ident.as_ref().map(ToString::to_string);
                let field_type = index.written_type(&module, None, &field.ty)?;
                Some((name.unwrap_or_else(|| number.to_string()), field_type))
            });
            let fields = fields.collect();
            index.fields.insert(path, fields);
        }
        let results = index.functions.iter().map(|function| {
            let syn::ReturnType::Type(_, written) = &function.signature.output else {
                return None;
            };
            index.written_type(&function.module, function.self_type.as_deref(), written)
        });
        let results: Vec<Option<Type>> = results.collect();
        for (function, result) in index.functions.iter_mut().zip(results) {
            function.result = result;
        }
        index
    }

    fn add_items(&mut self, file: &str, module: &str, items: Vec<Item>) {
        for item in items {
            match item {
                Item::Fn(item) => self.add_function(file, module, None, item.sig, *item.block),
                Item::Struct(item) => {
                    let path = format!("{module}::{}", item.ident);
                    self.items.insert(path.clone());
                    self.unresolved.push((path, module.to_owned(), item.fields));
                }
                Item::Enum(item) => self.add_type(module, &item.ident),
                Item::Trait(item) => {
                    self.add_type(module, &item.ident);
                    let path = format!("{module}::{}", item.ident);
                    for part in item.items {
                        if let syn::TraitItem::Fn(part) = part
                            && let Some(body) = part.default
                        {
                            self.add_function(file, module, Some(&path), part.sig, body);
                        }
                    }
                }
                Item::Mod(item) => {
                    let path = format!("{module}::{}", item.ident);
                    self.items.insert(path.clone());
                    if let Some((_, items)) = item.content {
                        self.add_items(file, &path, items);
                    }
                }
                Item::Use(item) => self.add_imports(module, Vec::new(), &item.tree),
                Item::Impl(item) => {
                    let key = (file.to_owned(), module.to_owned(), item);
                    self.implementations.push(key);
                }
                _ => {}
            }
        }
    }

    /// Adds the methods, after the imports of all modules.
    fn add_implementations(&mut self) {
        for (file, module, item) in std::mem::take(&mut self.implementations) {
            let Some(of) = self.written_type(&module, None, &item.self_ty) else {
                continue;
            };
            for part in item.items {
                if let syn::ImplItem::Fn(part) = part {
                    self.add_function(&file, &module, Some(&of.path), part.sig, part.block);
                }
            }
        }
    }

    fn add_type(&mut self, module: &str, name: &syn::Ident) {
        self.items.insert(format!("{module}::{name}"));
    }

    fn add_function(
        &mut self,
        file: &str,
        module: &str,
        self_type: Option<&str>,
        signature: Signature,
        body: Block,
    ) {
        let path = format!("{}::{}", self_type.unwrap_or(module), signature.ident);
        self.by_path.insert(path.clone(), self.functions.len());
        if self_type.is_none() {
            self.items.insert(path.clone());
        }
        self.functions.push(Function {
            path,
            file: file.to_owned(),
            module: module.to_owned(),
            self_type: self_type.map(str::to_owned),
            signature,
            body,
            result: None,
        });
    }

    fn add_imports(&mut self, module: &str, mut before: Vec<String>, tree: &UseTree) {
        let mut add = |name: String, path: Vec<String>| {
            let imports = self.imports.entry(module.to_owned()).or_default();
            imports.names.insert(name, path);
        };
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_imports(module, before, &path.tree);
            }
            UseTree::Name(name) if name.ident == "self" => {
                add(before.last().cloned().unwrap_or_default(), before);
            }
            UseTree::Name(name) => {
                before.push(name.ident.to_string());
                add(name.ident.to_string(), before);
            }
            UseTree::Rename(rename) => {
                if rename.ident != "self" {
                    before.push(rename.ident.to_string());
                }
                add(rename.rename.to_string(), before);
            }
            UseTree::Glob(_) => {
                let imports = self.imports.entry(module.to_owned()).or_default();
                imports.globs.push(before);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_imports(module, before.clone(), tree);
                }
            }
        }
    }

    /// The function with this resolved path.
    pub fn function(&self, path: &str) -> Option<usize> {
        self.by_path.get(path).copied()
    }

    /// The type of a field of a struct.
    pub fn field(&self, of: &Type, name: &str) -> Option<Type> {
        let fields = self.fields.get(&of.path)?;
        let (_, field_type) = fields.iter().find(|(field, _)| field == name)?;
        Some(field_type.clone())
    }

    /// Whether the path is a struct of the index.
    pub fn is_struct(&self, path: &str) -> bool {
        self.fields.contains_key(path)
    }

    /// The path of the definition that a written path names.
    pub fn resolved(&self, module: &str, self_type: Option<&str>, written: &syn::Path) -> String {
        let segments: Vec<String> = written
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        match (segments.split_first(), self_type) {
            (Some((first, rest)), Some(of)) if first == "Self" => {
                self.below(of.to_owned(), rest, 0)
            }
            _ => self.path_from(module, &segments, 0),
        }
    }

    fn path_from(&self, module: &str, segments: &[String], depth: u32) -> String {
        let mut module = module;
        let mut rest = segments;
        while let Some((first, after)) = rest.split_first() {
            match first.as_str() {
                "crate" => module = module.split("::").next().unwrap_or_default(),
                "super" => module = module.rsplit_once("::").map_or(module, |(above, _)| above),
                "self" => {}
                _ if rest.len() < segments.len() => {
                    return self.below(module.to_owned(), rest, depth);
                }
                _ => {
                    let start = self.member(module, first, depth);
                    return self.below(start.unwrap_or_else(|| first.clone()), after, depth);
                }
            }
            rest = after;
        }
        module.to_owned()
    }

    fn below(&self, start: String, segments: &[String], depth: u32) -> String {
        segments.iter().fold(start, |module, segment| {
            let member = self.member(&module, segment, depth);
            member.unwrap_or_else(|| format!("{module}::{segment}"))
        })
    }

    /// The path of the item with this name in a module, by definition or import.
    fn member(&self, module: &str, name: &str, depth: u32) -> Option<String> {
        let path = format!("{module}::{name}");
        if self.items.contains(&path) || depth > DEPTH_MAX {
            return Some(path);
        }
        let imports = self.imports.get(module)?;
        if let Some(written) = imports.names.get(name) {
            // `use io::Error as io;` names the crate or module, and not itself.
            let is_circle = written.first().is_some_and(|first| first == name);
            return Some(match (is_circle, written.split_first()) {
                (true, Some((first, rest))) => self.below(first.clone(), rest, depth + 1),
                _ => self.path_from(module, written, depth + 1),
            });
        }
        imports.globs.iter().find_map(|glob| {
            let below = self.path_from(module, glob, depth + 1);
            let path = self.member(&below, name, depth + 1)?;
            self.items.contains(&path).then_some(path)
        })
    }

    /// A written type, resolved.
    pub fn written_type(
        &self,
        module: &str,
        self_type: Option<&str>,
        written: &syn::Type,
    ) -> Option<Type> {
        let inner = |written: &syn::Type| self.written_type(module, self_type, written);
        let unknown = || Type::plain("?");
        match written {
            syn::Type::Reference(reference) => inner(&reference.elem),
            syn::Type::Paren(paren) => inner(&paren.elem),
            syn::Type::Group(group) => inner(&group.elem),
            syn::Type::Slice(slice) => Some(Type {
                path: "[]".to_owned(),
                args: vec![inner(&slice.elem).unwrap_or_else(unknown)],
            }),
            syn::Type::Tuple(tuple) => Some(Type {
                path: "()".to_owned(),
                args: tuple
                    .elems
                    .iter()
                    .map(|part| inner(part).unwrap_or_else(unknown))
                    .collect(),
            }),
            syn::Type::Path(path) => Some(self.path_type(module, self_type, &path.path)),
            syn::Type::ImplTrait(bounds) => self.bound_type(module, self_type, &bounds.bounds),
            syn::Type::TraitObject(bounds) => self.bound_type(module, self_type, &bounds.bounds),
            _ => None,
        }
    }

    fn bound_type<'b>(
        &self,
        module: &str,
        self_type: Option<&str>,
        bounds: impl IntoIterator<Item = &'b syn::TypeParamBound>,
    ) -> Option<Type> {
        bounds.into_iter().find_map(|bound| match bound {
            syn::TypeParamBound::Trait(bound) => {
                Some(self.path_type(module, self_type, &bound.path))
            }
            _ => None,
        })
    }

    fn path_type(&self, module: &str, self_type: Option<&str>, path: &syn::Path) -> Type {
        let args = path.segments.last().map(|segment| &segment.arguments);
        let args = match args {
            Some(syn::PathArguments::AngleBracketed(args)) => args
                .args
                .iter()
                .filter_map(|arg| match arg {
                    syn::GenericArgument::Type(arg) => Some(arg),
                    syn::GenericArgument::AssocType(arg) => Some(&arg.ty),
                    _ => None,
                })
                .map(|arg| self.written_type(module, self_type, arg))
                .map(|arg| arg.unwrap_or_else(|| Type::plain("?")))
                .collect(),
            _ => Vec::new(),
        };
        Type {
            path: self.resolved(module, self_type, path),
            args,
        }
    }
}

/// The path of the module of a file: `node_agent::worker` for `crates/node-agent/src/worker/mod.rs`.
fn module_of(path: &str) -> Option<String> {
    let (name, file) = path.strip_prefix("crates/")?.split_once("/src/")?;
    let parts = file.strip_suffix(".rs")?.split('/');
    let mut module = vec![name.replace('-', "_")];
    module.extend(
        parts
            .filter(|part| !["mod", "lib", "main"].contains(part))
            .map(str::to_owned),
    );
    Some(module.join("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(index: &Index, module: &str, path: &str) -> String {
        index.resolved(module, None, &syn::parse_str(path).unwrap())
    }

    #[test]
    fn paths_are_resolved_by_imports_reexports_and_modules() {
        let texts = [
            (
                "crates/a-b/src/lib.rs",
                "mod c;\npub use c::{read, Kind as Sort};\nmod e { pub fn f() {} }",
            ),
            (
                "crates/a-b/src/c/mod.rs",
                "use std::fs;\npub fn read() {}\npub struct Kind { a: fs::File }\nimpl Kind { fn new() -> Self {} }",
            ),
            ("crates/d/src/main.rs", "use a_b::*;\nuse a_b::Sort;"),
        ];
        let index = Index::new(texts.map(|(path, text)| (path, text.to_owned())));
        for (module, written, path) in [
            ("d", "read", "a_b::c::read"),
            ("d", "Sort::new", "a_b::c::Kind::new"),
            ("d", "a_b::read", "a_b::c::read"),
            ("a_b::c", "fs::write", "std::fs::write"),
            ("a_b::c", "super::e::f", "a_b::e::f"),
            ("a_b::c", "crate::read", "a_b::c::read"),
            ("a_b::c", "unknown", "unknown"),
        ] {
            assert_eq!(resolved(&index, module, written), path, "{written}");
        }
        let kind = Type::plain("a_b::c::Kind");
        let file = Type::plain("std::fs::File");
        assert_eq!(index.field(&kind, "a"), Some(file));
        let new = index.function("a_b::c::Kind::new").unwrap();
        assert_eq!(index.functions[new].result, Some(kind));
    }
}
