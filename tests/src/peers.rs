//! Components that others wrote, as real peers: emulated GitHub, Stripe and AWS behind nginx's TLS, and git's own
//! http-backend. `./tests/run` installs them; where one is missing the test fails and says so.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use tempfile::TempDir;

use crate::origin::certificate;
use crate::world::{Setup, eventually};

/// The key that emulated GitHub knows.
pub const GITHUB_KEY: &str = "ghp_0peratorsRealGithubKey0123456789abcd";
/// The key that the front demands for emulated Stripe.
pub const STRIPE_KEY: &str = "sk_live_0peratorsRealStripeKey0123456789";
pub const AWS_KEY: &str = "aws_0peratorsRealBearerKey0123456789";
pub const GIT_KEY: &str = "git_0peratorsRealPassword0123456789abc";

pub const HOSTS: [&str; 4] =
    ["api.github.com", "api.stripe.com", "s3.amazonaws.com", "git.example.com"];

/// nginx with a TLS server for each of [`HOSTS`], HTTP/2 and HTTP/1.1, which lets only the real keys through and
/// writes down what came.
pub struct Peers {
    dir: TempDir,
    port: u16,
    ca_pem: String,
    children: Vec<Child>,
}

/// Where `./tests/run` puts what it installs.
pub fn tools() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::env::var_os("COUNTERSIGN_TEST_TOOLS").map_or_else(|| root.join(".cache"), PathBuf::from)
}

/// The folder of the client scripts and of node_modules.
pub fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn free_ports_in_a_row(count: u16) -> u16 {
    loop {
        let first = free_port();
        if first.checked_add(count).is_some()
            && (first..first + count).all(|p| TcpListener::bind(("127.0.0.1", p)).is_ok())
        {
            return first;
        }
    }
}

impl Peers {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ca_pem, leaf, key) = certificate(&HOSTS);
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("leaf.pem", &leaf);
        write("key.pem", &key);
        write("seed.yaml", &seed());

        let emulated = free_ports_in_a_row(3);
        let mut children = vec![spawn(
            Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("node_modules/.bin/emulate"))
                .args(["start", "-p", &emulated.to_string(), "-s", "github,stripe,aws", "--seed"])
                .arg(dir.path().join("seed.yaml")),
            dir.path(),
            "emulate",
        )];

        let root = dir.path().join("git");
        repository(&root);
        let socket = dir.path().join("cgi.sock");
        children.push(spawn(
            Command::new("/usr/bin/spawn-fcgi").arg("-n").arg("-s").arg(&socket).args([
                "-M",
                "666",
                "--",
                "/usr/sbin/fcgiwrap",
            ]),
            dir.path(),
            "spawn-fcgi",
        ));

        let port = free_port();
        write("nginx.conf", &nginx(port, emulated, dir.path(), &root, &socket));
        children.push(spawn(
            Command::new("/usr/sbin/nginx")
                .arg("-p")
                .arg(dir.path())
                .arg("-c")
                .arg(dir.path().join("nginx.conf")),
            dir.path(),
            "nginx",
        ));
        let peers = Self { dir, port, ca_pem, children };
        for port in [peers.port, emulated, emulated + 1, emulated + 2] {
            eventually(&format!("port {port}\n{}", peers.logs()), || {
                std::net::TcpStream::connect(("127.0.0.1", port)).ok()
            });
        }
        peers
    }

    /// What a world needs to reach them.
    pub fn setup(&self, policy: &str) -> Setup {
        let connect_to =
            HOSTS.iter().map(|host| format!("{host}:443:127.0.0.1:{}", self.port)).collect();
        Setup {
            policy: policy.into(),
            connect_to,
            upstream_ca: vec![self.ca_pem.clone()],
            ..Setup::default()
        }
    }

    /// What nginx saw, a line each: `HOST METHOD TARGET PROTOCOL STATUS AUTHORIZATION`.
    pub fn seen(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("seen.log")).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }

    /// The bare repository that git.example.com serves as `/project.git`.
    pub fn repository(&self) -> PathBuf {
        self.dir.path().join("git/project.git")
    }

    fn logs(&self) -> String {
        let read =
            |name: &str| std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        ["emulate.log", "spawn-fcgi.log", "nginx.log"].map(read).join("\n")
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = Command::new("pkill").args(["-P", &child.id().to_string()]).status();
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn spawn(command: &mut Command, dir: &Path, name: &str) -> Child {
    let log = std::fs::File::create(dir.join(format!("{name}.log"))).unwrap();
    let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
    child.unwrap_or_else(|e| {
        panic!("{name} does not start ({e}): ./tests/run installs what the tests need")
    })
}

fn seed() -> String {
    format!(
        "tokens:\n  {GITHUB_KEY}:\n    login: octocat\n    scopes: [repo, user, delete_repo]\n\
         github:\n  users:\n    - login: octocat\n      name: The Octocat\n  repos:\n\
         \x20   - {{owner: octocat, name: hello-world, auto_init: true}}\n\
         \x20   - {{owner: octocat, name: doomed, auto_init: true}}\n\
         aws:\n  region: us-east-1\n  s3:\n    buckets:\n      - name: invoices\n\
         stripe:\n  customers:\n    - {{email: test@example.com, name: Test Customer}}\n"
    )
}

fn nginx(port: u16, emulated: u16, dir: &Path, git_root: &Path, socket: &Path) -> String {
    let dir = dir.display();
    let server = |host: &str, key: &str, backend: u16| {
        format!(
            "server {{ listen 127.0.0.1:{port} ssl http2; server_name {host};\n\
             \x20 if ($http_authorization !~* \"^(bearer|token) {key}$\") {{ return 401; }}\n\
             \x20 location / {{ proxy_pass http://127.0.0.1:{backend}; proxy_set_header Host $host; }} }}\n"
        )
    };
    let basic = base64::prelude::BASE64_STANDARD.encode(format!("git:{GIT_KEY}"));
    format!(
        "daemon off; user root; pid {dir}/nginx.pid; error_log {dir}/error.log; worker_processes 1;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
         log_format seen '$host $request_method $request_uri $server_protocol $status $http_authorization';\n\
         access_log {dir}/seen.log seen; client_max_body_size 0; client_body_temp_path {dir}/body;\n\
         proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
         ssl_certificate {dir}/leaf.pem; ssl_certificate_key {dir}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;\n\
         {github}{stripe}{aws}\
         server {{ listen 127.0.0.1:{port} ssl http2; server_name git.example.com;\n\
         \x20 error_page 401 = @challenge;\n\
         \x20 if ($http_authorization != \"Basic {basic}\") {{ return 401; }}\n\
         \x20 location @challenge {{ internal; add_header WWW-Authenticate 'Basic realm=\"git\"' always; return 401; }}\n\
         \x20 location / {{ fastcgi_pass unix:{socket}; include /etc/nginx/fastcgi_params;\n\
         \x20   fastcgi_param SCRIPT_FILENAME /usr/lib/git-core/git-http-backend; fastcgi_param PATH_INFO $uri;\n\
         \x20   fastcgi_param GIT_PROJECT_ROOT {git}; fastcgi_param GIT_HTTP_EXPORT_ALL 1; fastcgi_param REMOTE_USER git; }} }}\n\
         }}\n",
        github = server("api.github.com", GITHUB_KEY, emulated),
        stripe = server("api.stripe.com", STRIPE_KEY, emulated + 1),
        aws = server("s3.amazonaws.com", AWS_KEY, emulated + 2),
        socket = socket.display(),
        git = git_root.display(),
    )
}

/// A bare repository with one commit, which accepts pushes.
fn repository(root: &Path) {
    let bare = root.join("project.git");
    let work = root.join("work");
    std::fs::create_dir_all(root).unwrap();
    let git = |dir: &Path, arguments: &[&str]| {
        let status = Command::new("git")
            .current_dir(dir)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "git {arguments:?}");
    };
    git(root, &["init", "--bare", "-b", "main", bare.to_str().unwrap()]);
    git(&bare, &["config", "http.receivepack", "true"]);
    git(root, &["init", "-b", "main", work.to_str().unwrap()]);
    std::fs::write(work.join("README"), "first\n").unwrap();
    git(&work, &["add", "README"]);
    git(
        &work,
        &["-c", "user.name=Test", "-c", "user.email=test@example.com", "commit", "-m", "First"],
    );
    git(&work, &["push", bare.to_str().unwrap(), "main"]);
    std::fs::remove_dir_all(work).unwrap();
}
