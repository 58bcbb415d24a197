//! Module files: each is built, and a module with submodules is `NAME/mod.rs`.

use super::checkout::{Finding, SourceFile};

/// Finds Rust files that are neither roots of crates nor named as modules in their directory or the directory above,
/// and modules in the other style.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let rust = || files.iter().filter(|file| file.path.ends_with(".rs"));
    let one_program = |package: &str| {
        let manifest = format!("{package}/Cargo.toml");
        let manifest = files.iter().find(|file| file.path == manifest);
        manifest.is_some_and(|file| file.text.contains("autotests = false"))
    };
    let forgotten = rust().filter(|file| {
        let Some(module) = ModuleFile::of(&file.path) else {
            return false;
        };
        let root = module.is_root(one_program(module.package));
        !root && !rust().any(|other| module.is_named_by(other))
    });
    let finding = |file: &SourceFile, text: &str| Finding {
        file: file.path.clone(),
        text: text.to_owned(),
    };
    let forgotten =
        forgotten.map(|file| finding(file, "no module names this file: it is not built"));
    // The other style of Rust, a file and a folder with equal names.
    let adjacent = rust().filter(|file| {
        let folder = format!("{}/", file.path.trim_end_matches(".rs"));
        rust().any(|other| other.path.starts_with(&folder))
    });
    let adjacent =
        adjacent.map(|file| finding(file, "has a folder beside it: name it NAME/mod.rs"));
    forgotten.chain(adjacent).collect()
}

/// The position of a file in its package.
struct ModuleFile<'a> {
    /// `crates/NAME`.
    package: &'a str,
    /// Directory in the package.
    directory: &'a str,
    /// The module that the file is.
    name: &'a str,
}

impl<'a> ModuleFile<'a> {
    fn of(path: &'a str) -> Option<Self> {
        let inside = path.strip_prefix("crates/")?;
        let package = &path[.."crates/".len() + inside.find('/')?];
        let inside = path[package.len() + 1..].strip_suffix(".rs")?;
        let inside = inside.strip_suffix("/mod").unwrap_or(inside);
        let (directory, name) = inside.rsplit_once('/').unwrap_or(("", inside));
        Some(Self {
            package,
            directory,
            name,
        })
    }

    /// Whether cargo finds the file by itself (The Cargo Book, package layout), where the tests are
    /// `one_program` or each file is one.
    fn is_root(&self, one_program: bool) -> bool {
        match (self.directory, self.name) {
            ("", "build")
            | ("build", "main")
            | ("src", "lib" | "main")
            | ("src/bin" | "benches" | "examples", _) => true,
            ("tests", name) => name == "main" || !one_program,
            (directory, name) => directory.starts_with("tests/") && name == "main",
        }
    }

    /// Whether a file in the same directory, or in the directory above, declares this file as a module.
    fn is_named_by(&self, other: &SourceFile) -> bool {
        let path = other.path.strip_prefix(self.package);
        let Some(path) = path.and_then(|path| path.strip_prefix('/')) else {
            return false;
        };
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let above = self.directory.rsplit_once('/');
        let near =
            directory == self.directory || above.is_some_and(|(above, _)| directory == above);
        let declared = format!("mod {};", self.name);
        let at = format!("/{}.rs\"]", self.name);
        let names = |line: &str| {
            let line = line.trim();
            let declares = line.ends_with(&declared) && !line.starts_with("//");
            declares || line.starts_with("#[path") && line.ends_with(&at)
        };
        near && other.text.lines().any(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unbuilt(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<SourceFile> = files
            .iter()
            .map(|(path, text)| SourceFile::new(*path, *text))
            .collect();
        check(&files)
            .into_iter()
            .map(|unbuilt| unbuilt.file)
            .collect()
    }

    #[test]
    fn what_a_module_names_is_built() {
        let none: Vec<String> = Vec::new();
        assert_eq!(
            unbuilt(&[
                ("crates/a/build.rs", ""),
                ("crates/b/build/main.rs", "mod kinds;"),
                ("crates/b/build/kinds.rs", ""),
                ("crates/a/src/lib.rs", "pub mod b;\nmod c;"),
                ("crates/a/src/b/mod.rs", "pub(crate) mod d;"),
                ("crates/a/src/b/d.rs", ""),
                ("crates/a/src/c/mod.rs", "#[cfg(test)]\nmod tests;"),
                ("crates/a/src/c/tests.rs", ""),
                ("crates/a/tests/t.rs", "#[path = \"world/net.rs\"]\nmod w;"),
                ("crates/a/tests/world/net.rs", ""),
                ("crates/a/tests/all/main.rs", "mod e;"),
                ("crates/a/tests/all/e.rs", ""),
            ]),
            none
        );
    }

    #[test]
    fn what_none_names_is_found() {
        let forgotten = [
            ("crates/a/src/lib.rs", "// mod b;\nmod bc;"),
            ("crates/a/src/bc.rs", ""),
            ("crates/a/src/b.rs", ""),
            ("crates/a/src/d/mod.rs", ""),
            ("crates/a/tests/all/main.rs", ""),
            ("crates/a/tests/all/e.rs", ""),
            ("crates/b/Cargo.toml", "autotests = false"),
            ("crates/b/tests/main.rs", "mod f;"),
            ("crates/b/tests/f.rs", ""),
            ("crates/b/tests/g.rs", ""),
        ];
        assert_eq!(
            unbuilt(&forgotten),
            [
                "crates/a/src/b.rs",
                "crates/a/src/d/mod.rs",
                "crates/a/tests/all/e.rs",
                "crates/b/tests/g.rs"
            ]
        );
    }

    #[test]
    fn a_module_with_submodules_has_one_style() {
        let unbuilt = unbuilt(&[
            ("crates/a/src/lib.rs", "mod b;\nmod c;"),
            ("crates/a/src/b.rs", "mod d;"),
            ("crates/a/src/b/d.rs", ""),
            ("crates/a/src/c/mod.rs", "mod e;"),
            ("crates/a/src/c/e.rs", ""),
        ]);
        assert_eq!(unbuilt, ["crates/a/src/b.rs"]);
    }
}
