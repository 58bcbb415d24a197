//! The imports between the modules of a crate, with re-exports resolved: an import of a name is an import
//! of the module that defines the name, whatever modules its path contains.
//!
//! A module is a file. It imports another module if its code names an item of that module, in a `use` or
//! by a path; a re-export alone is no import. Tests are left out. Methods are not followed: their names do
//! not state where they are defined.

use std::collections::{BTreeMap, BTreeSet};

use super::checkout::SourceFile;
use super::code;

/// A module by its path in the crate; the root is empty.
pub type ModulePath = Vec<String>;

/// The imports between the modules of a crate.
pub struct Imports<'a> {
    /// The file of each module.
    pub files: BTreeMap<ModulePath, &'a str>,
    /// The modules that each module imports.
    pub imported: BTreeMap<ModulePath, BTreeSet<ModulePath>>,
}

/// Re-exports that lead through more names than this are circular.
const HOPS_MAX: u32 = 16;

/// The crate of a source file, and the file's path below `src`.
pub fn source(file: &SourceFile) -> Option<(&str, &str)> {
    let (name, inside) = file.path.strip_prefix("crates/")?.split_once("/src/")?;
    let is_rust = inside.ends_with(".rs") && !inside.starts_with("bin/") && !name.contains('/');
    is_rust.then_some((name, inside))
}

/// A module in text.
pub fn module_text(path: &ModulePath) -> String {
    match path.is_empty() {
        true => "the crate's root".to_owned(),
        false => path.join("/"),
    }
}

impl<'a> Imports<'a> {
    /// The imports in a crate.
    pub fn of(name: &str, files: &'a [SourceFile]) -> Self {
        let sources: Vec<(&str, &SourceFile)> = files
            .iter()
            .filter_map(|file| {
                let (of, inside) = source(file)?;
                let is_product = !file.code.trim().is_empty() || file.text.trim().is_empty();
                (of == name && is_product).then_some((inside, file))
            })
            .collect();
        let has_library = sources.iter().any(|(inside, _)| *inside == "lib.rs");
        // The program is a separate crate if there is a library.
        let sources = sources
            .into_iter()
            .filter(|(inside, _)| *inside != "main.rs" || !has_library);
        let sources: BTreeMap<ModulePath, &SourceFile> = sources
            .map(|(inside, file)| (module(inside), file))
            .collect();
        let codes: Vec<(&ModulePath, String)> = sources
            .iter()
            .map(|(path, file)| (path, without_inner_scopes(&file.code)))
            .collect();
        let modules = codes
            .iter()
            .map(|(path, code)| ((*path).clone(), Module::of(code)));
        let modules = Modules(modules.collect());
        let imported = modules.0.iter().map(|(path, module)| {
            let mut imports: BTreeSet<ModulePath> = module
                .named()
                .filter_map(|named| modules.definer(path, &named))
                .collect();
            imports.remove(path);
            (path.clone(), imports)
        });
        Self {
            imported: imported.collect(),
            files: sources
                .iter()
                .map(|(path, file)| (path.clone(), file.path.as_str()))
                .collect(),
        }
    }
}

/// The module that a file below `src` is.
fn module(inside: &str) -> ModulePath {
    let stem = inside.trim_end_matches(".rs");
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    match stem {
        "lib" | "main" => ModulePath::new(),
        stem => stem.split('/').map(str::to_owned).collect(),
    }
}

/// The code with the names of modules that are inside of it as its own: their `super` is the module itself.
fn without_inner_scopes(code: &str) -> String {
    let mut text = code.to_owned();
    for (at, inner) in code::inner_modules(code) {
        let flat: Vec<String> = inner
            .split("super::super::")
            .map(|part| part.replace("super::", "self::"))
            .collect();
        // Shorter than before: blanks preserve the offsets of the rest.
        let flat = flat.join("super::");
        let width = inner.len();
        text.replace_range(at..at + width, &format!("{flat:<width$}"));
    }
    text
}

/// A path in a `use`.
#[derive(Debug, PartialEq, Eq)]
struct Use<'t> {
    words: Vec<&'t str>,
    /// The name that the `use` defines in the module; `None` for all names (`*`).
    name: Option<&'t str>,
    is_public: bool,
}

/// The names in a module.
struct Module<'t> {
    uses: Vec<Use<'t>>,
    /// Paths in the code outside of `use`.
    paths: Vec<Vec<&'t str>>,
    /// Single words of the code outside of `use`.
    words: BTreeSet<&'t str>,
    /// The names of items that are defined here.
    defined: BTreeSet<&'t str>,
}

/// The words before the name of an item.
const DEFINING: [&str; 10] = [
    "const",
    "enum",
    "fn",
    "macro_rules",
    "mod",
    "static",
    "struct",
    "trait",
    "type",
    "union",
];

impl<'t> Module<'t> {
    fn of(code: &'t str) -> Self {
        let (uses, rest) = uses(code);
        let mut paths = Vec::new();
        let mut words = BTreeSet::new();
        let mut defined = BTreeSet::new();
        let mut last = "";
        for path in rest.into_iter().flat_map(paths_in) {
            if let [word] = path[..] {
                if DEFINING.contains(&last) {
                    defined.insert(word);
                } else {
                    words.insert(word);
                }
                last = word;
            } else {
                last = "";
                paths.push(path);
            }
        }
        Self {
            uses,
            paths,
            words,
            defined,
        }
    }

    /// The paths to items that the code uses.
    fn named(&self) -> impl Iterator<Item = Vec<&'t str>> {
        let imported = self.uses.iter().filter(|used| match used.name {
            Some(name) => !used.is_public || self.words.contains(name),
            None => !used.is_public,
        });
        let imported = imported.map(|used| used.words.clone());
        let in_code = self.paths.iter().filter(|path| {
            let first = path.first().copied().unwrap_or_default();
            // Paths through an imported name are followed from it.
            is_relative(first) || self.use_of(first).is_some() || self.defined.contains(first)
        });
        imported.chain(in_code.cloned())
    }

    fn use_of(&self, name: &str) -> Option<&Use<'t>> {
        self.uses.iter().find(|used| used.name == Some(name))
    }
}

fn is_relative(word: &str) -> bool {
    matches!(word, "crate" | "self" | "super")
}

/// All modules of a crate.
struct Modules<'t>(BTreeMap<ModulePath, Module<'t>>);

/// The end of a path.
enum Led {
    /// A module as a whole.
    To(ModulePath),
    /// An item in a module.
    Into(ModulePath),
}

impl Modules<'_> {
    /// The module that defines the item at the end of a path in another module.
    fn definer(&self, from: &ModulePath, path: &[&str]) -> Option<ModulePath> {
        let all = path.strip_suffix(&["*"]);
        match self.lead(from, all.unwrap_or(path), 0)? {
            // The name of a module imports nothing: paths through it do.
            Led::To(module) => all.is_some().then_some(module),
            Led::Into(module) => Some(module),
        }
    }

    fn lead(&self, from: &ModulePath, path: &[&str], hops: u32) -> Option<Led> {
        if hops > HOPS_MAX {
            return None;
        }
        let module = self.0.get(from)?;
        let Some((first, rest)) = path.split_first() else {
            return Some(Led::To(from.clone()));
        };
        let on = |to: &ModulePath, path: &[&str]| self.lead(to, path, hops + 1);
        match *first {
            "self" => return on(from, rest),
            "crate" => return on(&ModulePath::new(), rest),
            "super" => return on(&from[..from.len().saturating_sub(1)].to_vec(), rest),
            _ => {}
        }
        let child: ModulePath = from.iter().cloned().chain([(*first).to_owned()]).collect();
        let used = module.use_of(first);
        // A function may have the name of its module.
        if self.0.contains_key(&child) && !(rest.is_empty() && used.is_some()) {
            return on(&child, rest);
        }
        if let Some(used) = used {
            let is_resolvable = used.words.first() != Some(first) || self.0.contains_key(&child);
            let full: Vec<&str> = used.words.iter().chain(rest).copied().collect();
            return is_resolvable.then(|| on(from, &full)).flatten();
        }
        if module.defined.contains(first) {
            return Some(Led::Into(from.clone()));
        }
        let all = module.uses.iter().filter(|used| used.name.is_none());
        let in_all = all.filter_map(|used| match on(from, used.words.strip_suffix(&["*"])?)? {
            Led::To(other) if other != *from => {
                let existing = self.0.get(&other)?;
                let has = existing.defined.contains(first) || existing.use_of(first).is_some();
                has.then(|| on(&other, path)).flatten()
            }
            _ => None,
        });
        let imports = in_all.into_iter().next();
        // A name that a macro defines, or a name of a module in this file.
        imports.or_else(|| (hops > 0).then(|| Led::Into(from.clone())))
    }
}

/// The names that the `use`s of a code import, without the names from the crates in `others`.
pub fn imported_names<'a>(code: &'a str, others: &[&str]) -> Vec<&'a str> {
    let (uses, _) = uses(code);
    let ours = uses.into_iter().filter(|used| {
        let root = used.words.first();
        !root.is_some_and(|root| others.contains(root))
    });
    ours.filter_map(|used| used.name).collect()
}

/// The paths in all `use`s of a code, and the code between them.
fn uses(code: &str) -> (Vec<Use<'_>>, Vec<&str>) {
    let (mut imports, mut rest) = (Vec::new(), Vec::new());
    let mut from = 0;
    for (at, word) in code.match_indices("use ") {
        let before = &code[..at];
        let is_word = before.bytes().next_back().is_some_and(code::is_word);
        if at < from || is_word {
            continue;
        }
        let end = code[at..]
            .find(';')
            .map_or(code.len(), |length| at + length);
        let declaration = before
            .rsplit([';', '{', '}', ']'])
            .next()
            .unwrap_or_default();
        let is_public = declaration.trim_start().starts_with("pub");
        let mut paths = Vec::new();
        tree(&code[at + word.len()..end], &[], &mut paths);
        imports.extend(paths.into_iter().map(|(words, name)| Use {
            words,
            name,
            is_public,
        }));
        rest.push(&code[from..at]);
        from = (end + 1).min(code.len());
    }
    rest.push(&code[from..]);
    (imports, rest)
}

/// A path with the name that it defines.
type Named<'t> = (Vec<&'t str>, Option<&'t str>);

/// Parses a path, or a list of paths in braces; returns the rest.
fn tree<'t>(text: &'t str, before: &[&'t str], imports: &mut Vec<Named<'t>>) -> &'t str {
    let text = text.trim_start().trim_start_matches("::");
    if let Some(list) = text.strip_prefix('{') {
        let mut rest = list.trim_start();
        while !rest.is_empty() && !rest.starts_with('}') {
            rest = tree(rest, before, imports).trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        return rest.strip_prefix('}').unwrap_or(rest);
    }
    if let Some(rest) = text.strip_prefix('*') {
        let words = before.iter().copied().chain(["*"]).collect();
        imports.push((words, None));
        return rest;
    }
    let (word, rest) = word(text);
    if word.is_empty() {
        // Something that is no path.
        return rest.get(1..).unwrap_or_default();
    }
    let path: Vec<&str> = before.iter().copied().chain([word]).collect();
    let rest = rest.trim_start();
    if let Some(rest) = rest.strip_prefix("::") {
        return tree(rest, &path, imports);
    }
    let (name, rest) = match rest.strip_prefix("as ") {
        Some(alias) => self::word(alias.trim_start()),
        None => (word, rest),
    };
    match (word, before.last()) {
        // `a::{self}` names `a`.
        ("self", Some(last)) => {
            let name = if name == "self" { *last } else { name };
            imports.push((before.to_vec(), Some(name)));
        }
        _ => imports.push((path, Some(name))),
    }
    rest
}

fn word(text: &str) -> (&str, &str) {
    let length = text.bytes().take_while(|byte| code::is_word(*byte)).count();
    text.split_at(length)
}

/// The words of a code, grouped by path.
fn paths_in(code: &str) -> Vec<Vec<&str>> {
    let mut imports: Vec<Vec<&str>> = Vec::new();
    let mut rest = code;
    while !rest.is_empty() {
        let (first, after) = word(rest);
        if first.is_empty() {
            let mark = rest.chars().next().map_or(1, char::len_utf8);
            rest = &rest[mark..];
            continue;
        }
        let mut path = vec![first];
        rest = after;
        while let Some(after) = rest.strip_prefix("::") {
            let (next, after) = word(after);
            if next.is_empty() {
                break;
            }
            path.push(next);
            rest = after;
        }
        imports.push(path);
    }
    imports
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<SourceFile> = files
            .iter()
            .map(|(path, text)| SourceFile::new(format!("crates/a/src/{path}"), *text))
            .collect();
        let imports = Imports::of("a", &files);
        let pairs = imports.imported.iter().flat_map(|(from, all)| {
            let all = all.iter();
            all.map(|to| format!("{} -> {}", module_text(from), module_text(to)))
        });
        pairs.collect()
    }

    #[test]
    fn uses_are_read_with_lists_aliases_and_visibility() {
        let code = "use crate::{a, b::{self as x, c::D}};\npub(crate) use super::e::*;\nfn f() {}";
        let (imports, rest) = uses(code);
        let imports: Vec<String> = imports
            .iter()
            .map(|used| {
                let name = used.name.unwrap_or("all");
                format!("{} {name} {}", used.words.join("::"), used.is_public)
            })
            .collect();
        let expected = [
            "crate::a a false",
            "crate::b x false",
            "crate::b::c::D D false",
            "super::e::* all true",
        ];
        assert_eq!(imports, expected);
        assert!(rest.concat().contains("fn f() {}"));
    }

    #[test]
    fn a_re_export_is_followed_to_the_definition() {
        let imports = imported(&[
            (
                "lib.rs",
                "mod b;\nmod c;\npub use b::B;\npub use c::*;\npub struct R;",
            ),
            ("b.rs", "use crate::C;\npub struct B;"),
            ("c.rs", "pub struct C(crate::B, super::R);"),
        ]);
        assert_eq!(imports, ["b -> c", "c -> the crate's root", "c -> b"]);
    }

    #[test]
    fn a_parent_imports_the_children_that_its_code_names() {
        let imports = imported(&[
            (
                "lib.rs",
                "mod b;\nmod c;\nmod d;\npub use d::D;\nuse b::B;\nfn f(d: D) { c::g(); }",
            ),
            ("b.rs", "pub struct B;"),
            ("c.rs", "pub fn g() {}"),
            ("d.rs", "pub struct D;"),
        ]);
        let root = "the crate's root";
        assert_eq!(
            imports,
            [
                format!("{root} -> b"),
                format!("{root} -> c"),
                format!("{root} -> d")
            ]
        );
    }

    #[test]
    fn a_module_inside_a_file_is_part_of_it() {
        let inside = "mod b;\npub struct A;\nmod x { use super::A; use super::b::B; }";
        let imports = imported(&[
            ("c/mod.rs", inside),
            ("c/b.rs", "pub struct B;"),
            ("lib.rs", ""),
        ]);
        assert_eq!(imports, ["c -> c/b"]);
    }

    #[test]
    fn the_name_of_a_module_imports_no_item() {
        let imports = imported(&[
            ("lib.rs", "mod b;\nmod e;"),
            ("b/mod.rs", "mod c;\npub use c::C;"),
            ("b/c.rs", "pub struct C;"),
            (
                "e.rs",
                "use crate::b;\nuse std::fmt;\nfn f(c: b::C, d: fmt::Result) {}",
            ),
        ]);
        assert_eq!(imports, ["e -> b/c"]);
    }
}
