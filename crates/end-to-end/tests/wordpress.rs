//! WordPress with MariaDB: `examples/wordpress`. Installed and written to through its Service; a post survives the
//! deletion of all pods.

use end_to_end::applications::{mariadb, wordpress};
use end_to_end::registry::curl;
use end_to_end::{Kubectl, Page, Shell, example, text, wait_for, with_registry_of};

const TITLE: &str = "A post that stays";

/// The address of the Service.
fn address(kubectl: &Kubectl) -> String {
    let service = kubectl.json(&["get", "service", "wordpress"]);
    format!("http://{}", text(&service, "/spec/clusterIP"))
}

/// Gets a page once the response is 200 and contains the text.
#[track_caller]
fn wait_page(url: &str, expected: &str) -> String {
    wait_for(&format!("{expected:?} at {url}"), 90, || {
        let page = curl(&["--fail", "--location", url]);
        match page {
            Ok(page) if page.contains(expected) => Ok(page),
            other => Err(other),
        }
    })
}

/// findings U7: the page, as pasted.
#[test]
fn a_post_survives_all_pods() {
    let images = [
        ("library/wordpress", "6", &wordpress()),
        ("library/mariadb", "10.11", &mariadb()),
    ];
    let (_registry, instance) = with_registry_of(&images);
    let kubectl = instance.kubectl();
    let shell = Shell::new(&instance, example("wordpress"));
    let page = Page::open(&instance, "examples/wordpress/README.md");
    let both = "Write a post; then delete both pods";
    let output = page.paste("", Some(both)).stdout;
    assert!(output.contains("NodePort"), "{output}");
    kubectl.wait_ready("wordpress-db", 1);
    kubectl.wait_ready("wordpress", 1);
    for pod in ["wordpress-db-0", "wordpress-0"] {
        let status = &kubectl.pod(pod)["status"]["containerStatuses"][0];
        assert_eq!(status["restartCount"], 0, "{status}");
    }
    let site = address(&kubectl);

    // findings U7: the first page is not an error, because the pod becomes ready after its database.
    curl(&["--fail", "--location", &format!("{site}/")]).expect("the first page");
    // WordPress is not installed yet, so every page redirects to the installation page.
    let install = format!("{site}/wp-admin/install.php");
    wait_page(&format!("{site}/"), "WordPress");
    wait_page(&install, "weblog_title");
    through_a_forwarded_port(&shell, &page);
    let form = "weblog_title=Notes&user_name=writer&admin_password=a-long-password&\
        admin_password2=a-long-password&admin_email=writer%40example.org&blog_public=0&language=";
    let url = format!("{install}?step=2");
    let installed = curl(&["--fail", "--max-time", "300", "--data", form, &url]);
    let installed = installed.expect("the installation responds");
    assert!(installed.contains("Success"), "{installed}");
    wait_page(&format!("{site}/"), "Notes");

    publish(&site);
    has_the_post(&site);
    // From outside, at the node's port.
    let service = kubectl.json(&["get", "service", "wordpress"]);
    let port = &service["spec"]["ports"][0]["nodePort"];
    let node = shell.ok("kubectl get nodes -o jsonpath={.items[0].status.addresses[0].address}");
    assert!(output.contains(&format!("80:{port}/TCP")), "{output}");
    let login = format!("http://{node}:{port}/wp-login.php");
    wait_page(&login, "user_login");

    let deleted = page.paste(both, None).stdout;
    assert!(
        deleted.contains("pod \"wordpress-db-0\" deleted"),
        "{deleted}"
    );
    page.finish();
    kubectl.wait_ready("wordpress-db", 1);
    kubectl.wait_ready("wordpress", 1);
    has_the_post(&site);
}

/// As the page describes, except for the port, which another program may use here.
fn through_a_forwarded_port(shell: &Shell, page: &Page) {
    page.otherwise("kubectl port-forward service/wordpress 8080:80");
    let forward = shell.start("kubectl port-forward service/wordpress :80");
    let address = wait_for("the port", 30, || {
        let output = forward.output();
        let line = output
            .lines()
            .find_map(|line| line.strip_prefix("Forwarding from 127"));
        let address = line.and_then(|rest| rest.split_once(" ->"));
        address.map(|(rest, _)| format!("127{rest}")).ok_or(output)
    });
    wait_page(&format!("http://{address}/"), "weblog_title");
}

/// Publishes a post with the protocol of remote editors.
fn publish(site: &str) {
    let member = |name: &str, value: &str| {
        format!("<member><name>{name}</name><value><string>{value}</string></value></member>")
    };
    let post = [
        member("post_title", TITLE),
        member("post_content", "Kept on a claim."),
        member("post_status", "publish"),
    ]
    .concat();
    let call = format!(
        "<?xml version=\"1.0\"?><methodCall><methodName>wp.newPost</methodName><params>\
         <param><value><int>1</int></value></param>\
         <param><value><string>writer</string></value></param>\
         <param><value><string>a-long-password</string></value></param>\
         <param><value><struct>{post}</struct></value></param></params></methodCall>"
    );
    let url = format!("{site}/xmlrpc.php");
    let kind = "Content-Type: text/xml";
    let response = curl(&["--fail", "-H", kind, "--data", &call, &url]).expect("a response");
    assert!(response.contains("<string>"), "{response}");
    assert!(!response.contains("fault"), "{response}");
}

/// The front page and the REST API contain the post.
#[track_caller]
fn has_the_post(site: &str) {
    wait_page(&format!("{site}/"), TITLE);
    let posts = wait_page(&format!("{site}/?rest_route=/wp/v2/posts"), TITLE);
    assert!(posts.starts_with('['), "{posts}");
}
