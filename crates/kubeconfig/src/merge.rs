//! Paths relative to a file, and the merge of several files.

use std::path::Path;

use crate::file::Kubeconfig;

impl Kubeconfig {
    /// Makes relative paths absolute; they are relative to the directory of the file. A command is a path if it
    /// contains a slash; other commands are searched in `$PATH`.
    #[must_use]
    pub fn with_paths_from(mut self, directory: &Path) -> Self {
        for named in &mut self.clusters {
            resolve(&mut named.cluster.certificate_authority, directory);
        }
        for named in &mut self.users {
            let user = &mut named.user;
            resolve(&mut user.client_certificate, directory);
            resolve(&mut user.client_key, directory);
            resolve(&mut user.token_file, directory);
            if let Some(exec) = &mut user.exec
                && exec.command.as_ref().is_some_and(|name| name.contains('/'))
            {
                resolve(&mut exec.command, directory);
            }
        }
        self
    }

    /// Adds the entries of another file. If both files contain a cluster, user, context or current context of one
    /// name, this file's entry is used with all of its fields.
    #[must_use]
    pub fn merged_with(mut self, next: Self) -> Self {
        add(&mut self.clusters, next.clusters, |one| &one.name);
        add(&mut self.users, next.users, |one| &one.name);
        add(&mut self.contexts, next.contexts, |one| &one.name);
        let current = self.current_context.filter(|name| !name.is_empty());
        self.current_context = current.or(next.current_context);
        self
    }
}

fn resolve(path: &mut Option<String>, directory: &Path) {
    if let Some(path) = path.as_mut().filter(|path| !path.is_empty()) {
        *path = directory.join(&*path).to_string_lossy().into_owned();
    }
}

fn add<T>(ours: &mut Vec<T>, theirs: Vec<T>, name: impl Fn(&T) -> &String) {
    for one in theirs {
        if ours.iter().all(|other| name(other) != name(&one)) {
            ours.push(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Kubeconfig {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn paths_are_relative_to_their_file() {
        let text = "
clusters: [{name: a, cluster: {certificate-authority: ca.crt}}]
users:
- name: files
  user: {client-certificate: ../c.crt, client-key: /abs/c.key, tokenFile: t, exec: {command: bin/login}}
- name: path
  user: {client-certificate: '', exec: {command: login}}
";
        let read = parse(text).with_paths_from(Path::new("/home/me/.kube"));
        let ca = read.clusters[0].cluster.certificate_authority.as_deref();
        assert_eq!(ca, Some("/home/me/.kube/ca.crt"));
        let user = &read.users[0].user;
        let paths = [&user.client_certificate, &user.client_key, &user.token_file];
        let paths = paths.map(|path| path.as_deref().unwrap());
        let expected = ["/home/me/.kube/../c.crt", "/abs/c.key", "/home/me/.kube/t"];
        assert_eq!(paths, expected);
        let command = |user: usize| read.users[user].user.exec.clone().unwrap().command;
        assert_eq!(command(0).as_deref(), Some("/home/me/.kube/bin/login"));
        assert_eq!(command(1).as_deref(), Some("login"));
        assert_eq!(read.users[1].user.client_certificate.as_deref(), Some(""));
    }

    /// kubernetes.io, "Organizing Cluster Access Using kubeconfig Files", Merging.
    #[test]
    fn the_first_file_wins_with_all_of_an_entry() {
        let first = parse("{users: [{name: red, user: {token: one}}], current-context: ''}");
        let second = parse(
            "{users: [{name: red, user: {token: two, username: u}}, {name: blue}],
              clusters: [{name: c}], contexts: [{name: x}], current-context: x}",
        );
        let third = parse("{current-context: y}");
        let merged = first.merged_with(second).merged_with(third);
        assert_eq!(merged.users.len(), 2);
        assert_eq!(merged.users[0].user.token.as_deref(), Some("one"));
        assert_eq!(merged.users[0].user.username, None);
        assert_eq!((merged.clusters.len(), merged.contexts.len()), (1, 1));
        assert_eq!(merged.current_context.as_deref(), Some("x"));
    }
}
