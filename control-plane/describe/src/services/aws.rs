//! AWS: the query protocol (`Action=…`), the JSON protocols (`X-Amz-Target`), and the paths of S3 and Lambda.

use crate::ask::Ask;
use crate::table::{Row, look_up};
use crate::words::{count, row, word};
use crate::{Risk, Said, Undecidable};
use Risk::{Code, Destructive, People, Read, Write};

const MOST_NUMBERED: usize = 1000;

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    let host = ask.host.to_owned();
    let Some(host) = host.strip_suffix(".amazonaws.com") else { return Ok(None) };
    let labels: Vec<_> = host.split('.').collect();
    let said = match labels.as_slice() {
        [bucket @ .., "s3", "dualstack", _] | [bucket @ .., "s3", _] | [bucket @ .., "s3"] => {
            storage(ask, &bucket.join("."))
        }
        ["ec2"] | ["ec2", _] => query(ask, "EC2", EC2),
        ["iam"] => query(ask, "IAM", IAM),
        ["sts"] | ["sts", _] => query(ask, "STS", STS),
        ["lambda", _] => look_up(ask, LAMBDA),
        ["dynamodb", _] | [_, "ddb", _] => target(ask, "DynamoDB_20120810.", DYNAMODB),
        _ => Ok(None),
    }?;
    // Where: a name of a region, or nothing for services that have none.
    if let Some(region) = labels.last().filter(|it| said.is_some() && it.contains('-')) {
        ask.say("Region", (*region).to_owned(), &[]);
    }
    Ok(said)
}

/// `Action=TerminateInstances&InstanceId.1=…`, in a form or in the query.
fn query(ask: &mut Ask<'_>, service: &str, rows: &[Row]) -> Said {
    if ask.segments != [""] || !matches!(ask.method, "GET" | "POST") {
        return Ok(None);
    }
    ask.legible()?;
    ask.merge_query()?;
    let action = ask.need(".Action")?;
    ask.say("Action", action.clone(), &[".Action"]);
    ask.fact("Version", ".Version");
    if let Some((_, risk, verb, field, noun)) = EC2_LISTS.iter().find(|it| it.0 == action)
        && service == "EC2"
    {
        return numbered(ask, *risk, verb, field, noun);
    }
    let said = by_name(ask, &action, rows)?;
    let reads = action.starts_with("Describe") || (service == "IAM" && action.starts_with("List"));
    Ok(said.or_else(|| reads.then(|| (Read, format!("Read from {service}: {}", word(&action))))))
}

/// Calls whose names are not in their paths.
fn by_name(ask: &mut Ask<'_>, name: &str, rows: &[Row]) -> Said {
    let segments = std::mem::replace(&mut ask.segments, vec![name.to_owned()]);
    let method = std::mem::replace(&mut ask.method, "POST");
    let said = look_up(ask, rows);
    (ask.segments, ask.method) = (segments, method);
    said
}

/// `X-Amz-Target: DynamoDB_20120810.DeleteTable`.
fn target(ask: &mut Ask<'_>, prefix: &str, rows: &[Row]) -> Said {
    if ask.method != "POST" || ask.segments != [""] {
        return Ok(None);
    }
    let target = ask.need("@x-amz-target")?;
    let Some(name) = target.strip_prefix(prefix).map(str::to_owned) else { return Ok(None) };
    ask.json()?;
    let said = by_name(ask, &name, rows)?;
    if said.is_some() {
        ask.say("Operation", name, &[]);
    }
    Ok(said)
}

/// A call about things that are numbered: `InstanceId.1`, `InstanceId.2`.
fn numbered(ask: &mut Ask<'_>, risk: Risk, verb: &str, field: &str, noun: &str) -> Said {
    let mut names = Vec::new();
    let mut fields = Vec::new();
    while names.len() < MOST_NUMBERED {
        let field = format!(".{field}.{}", names.len() + 1);
        let Some(name) = ask.text(&field) else { break };
        names.push(word(&name));
        fields.push(field);
    }
    let sentence = match names.as_slice() {
        [] => return Err(Undecidable("a call without what it is about")),
        [one] => format!("{verb} {noun} {one}"),
        several => format!("{verb} {}: {}", count(several.len(), noun), row(several)),
    };
    let fields: Vec<_> = fields.iter().map(String::as_str).collect();
    ask.say(&count(names.len(), noun), names.join(", "), &fields);
    ask.fact("Only tried", ".DryRun");
    Ok(Some((risk, sentence)))
}

/// S3: a bucket in the host or in the path, an object, and what of them.
fn storage(ask: &mut Ask<'_>, in_host: &str) -> Said {
    let mut segments = ask.path();
    let bucket = match in_host {
        "" => segments.remove(0),
        name => name.to_owned(),
    };
    let key = segments.join("/");
    if bucket.is_empty() {
        return Ok(None);
    }
    let (bucket, object) = (word(&bucket), word(&key));
    let on_bucket = key.is_empty();
    const PARTS: [&str; 14] = [
        "acl",
        "cors",
        "delete",
        "encryption",
        "lifecycle",
        "policy",
        "publicAccessBlock",
        "replication",
        "tagging",
        "uploadId",
        "uploads",
        "versioning",
        "versions",
        "website",
    ];
    let parts: Vec<_> = PARTS.into_iter().filter(|it| ask.has(&format!("?{it}"))).collect();
    let part = match parts.as_slice() {
        [] => "",
        [one] => *one,
        _ => return Err(Undecidable("a call about two things of a bucket")),
    };
    let of = match on_bucket {
        true => format!("bucket {bucket}"),
        false => format!("object {object} of bucket {bucket}"),
    };
    let copied = ask.text("@x-amz-copy-source");
    let public = ask.text("@x-amz-acl").is_some_and(|acl| acl.starts_with("public"));
    let (risk, sentence) = match (ask.method, on_bucket, part) {
        ("DELETE", true, "") => (Destructive, format!("Delete {of}")),
        ("DELETE", false, "") if ask.has("?versionId") => {
            (Destructive, format!("Delete a version of {of} for good"))
        }
        ("DELETE", false, "") => (Destructive, format!("Delete {of}")),
        ("DELETE", false, "uploadId") => (Destructive, format!("Give up the upload of {of}")),
        ("DELETE", true, "publicAccessBlock") => {
            (People, format!("Lift the block on public access to {of}"))
        }
        ("DELETE", true, "policy") => (People, format!("Remove the policy of {of}")),
        ("DELETE", _, part) if !part.is_empty() => (Destructive, format!("Remove {part} of {of}")),
        ("POST", true, "delete") => (
            Destructive,
            format!("Delete objects of {of} that its body lists, which is not decoded"),
        ),
        ("PUT", _, "acl" | "policy" | "publicAccessBlock") => {
            (People, format!("Set who may use {of} ({part})"))
        }
        ("PUT", true, "lifecycle") => {
            (Destructive, format!("Set when objects of {of} are deleted by themselves"))
        }
        ("PUT", true, "") if public => (People, format!("Create {of}, open to the public")),
        ("PUT", true, "") => (Write, format!("Create {of}")),
        ("PUT", false, "") if public => (People, format!("Write {of}, open to the public")),
        ("PUT", false, "") => match copied {
            Some(source) => {
                (Destructive, format!("Overwrite {of} with a copy of {}", word(&source)))
            }
            None => (Destructive, format!("Write {of}, over what is there")),
        },
        ("PUT", false, "uploadId") => (Write, format!("Upload a piece of {of}")),
        ("PUT", _, part) if !part.is_empty() => (Write, format!("Set {part} of {of}")),
        ("POST", false, "uploads") => (Write, format!("Begin to upload {of}")),
        ("POST", false, "uploadId") => (Destructive, format!("Finish the upload of {of}")),
        ("GET", true, "") => (Read, format!("List objects of {of}")),
        ("GET" | "HEAD", false, "") => (Read, format!("Read {of}")),
        _ => return Ok(None),
    };
    for (name, field) in [
        ("Access", "@x-amz-acl"),
        ("Grants full control to", "@x-amz-grant-full-control"),
        ("Copies", "@x-amz-copy-source"),
        ("Version", "?versionId"),
        ("Operation", "?x-id"),
        ("Bypasses retention", "@x-amz-bypass-governance-retention"),
        ("Prefix", "?prefix"),
        ("Upload", "?uploadId"),
    ] {
        ask.fact(name, field);
    }
    // Its name is in the sentence, and it says no more.
    if ask.is(&format!("?{part}"), "") {
        ask.cover(&format!("?{part}"));
    }
    Ok(Some((risk, sentence)))
}

/// Action, risk, verb, field, noun.
const EC2_LISTS: [(&str, Risk, &str, &str, &str); 4] = [
    ("RebootInstances", Code, "Reboot", "InstanceId", "instance"),
    ("StartInstances", Code, "Start", "InstanceId", "instance"),
    ("StopInstances", Code, "Stop", "InstanceId", "instance"),
    ("TerminateInstances", Destructive, "Terminate", "InstanceId", "instance"),
];

const EC2: &[Row] = &[
    Row(
        "POST",
        "/DeleteVolume",
        Destructive,
        "Delete volume {.VolumeId}",
        &[("Volume", ".VolumeId")],
    ),
    Row(
        "POST",
        "/DeleteSnapshot",
        Destructive,
        "Delete snapshot {.SnapshotId}",
        &[("Snapshot", ".SnapshotId")],
    ),
    Row(
        "POST",
        "/DeregisterImage",
        Destructive,
        "Deregister image {.ImageId}",
        &[("Image", ".ImageId")],
    ),
    Row("POST", "/DeleteVpc", Destructive, "Delete VPC {.VpcId}", &[("VPC", ".VpcId")]),
    Row(
        "POST",
        "/DeleteSubnet",
        Destructive,
        "Delete subnet {.SubnetId}",
        &[("Subnet", ".SubnetId")],
    ),
    Row(
        "POST",
        "/DeleteSecurityGroup",
        Destructive,
        "Delete security group [{.GroupId}][{.GroupName}]",
        &[("Group", ".GroupId"), ("Group", ".GroupName")],
    ),
    Row(
        "POST",
        "/DeleteKeyPair",
        Destructive,
        "Delete key pair [{.KeyName}][{.KeyPairId}]",
        &[("Key pair", ".KeyName"), ("Key pair", ".KeyPairId")],
    ),
    Row(
        "POST",
        "/ReleaseAddress",
        Destructive,
        "Release address [{.AllocationId}][{.PublicIp}]",
        &[("Address", ".AllocationId"), ("Address", ".PublicIp")],
    ),
    Row(
        "POST",
        "/AuthorizeSecurityGroupIngress",
        People,
        "Open security group [{.GroupId}][{.GroupName}][ to {.IpPermissions.1.IpRanges.1.CidrIp}][ to {.CidrIp}][, {.IpPermissions.1.IpProtocol} from port {.IpPermissions.1.FromPort} to {.IpPermissions.1.ToPort}]",
        &[
            ("Group", ".GroupId"),
            ("Group", ".GroupName"),
            ("Protocol", ".IpPermissions.1.IpProtocol"),
            ("From port", ".IpPermissions.1.FromPort"),
            ("To port", ".IpPermissions.1.ToPort"),
            ("To", ".IpPermissions.1.IpRanges.1.CidrIp"),
            ("To", ".CidrIp"),
        ],
    ),
    Row(
        "POST",
        "/RevokeSecurityGroupIngress",
        People,
        "Close security group [{.GroupId}][{.GroupName}][ to {.IpPermissions.1.IpRanges.1.CidrIp}]",
        &[("Group", ".GroupId"), ("To", ".IpPermissions.1.IpRanges.1.CidrIp")],
    ),
    Row(
        "POST",
        "/ModifySnapshotAttribute",
        People,
        "Change who may use snapshot {.SnapshotId}",
        &[("Snapshot", ".SnapshotId")],
    ),
    Row(
        "POST",
        "/ModifyImageAttribute",
        People,
        "Change image {.ImageId}, or who may use it",
        &[("Image", ".ImageId")],
    ),
    Row("POST", "/CreateKeyPair", People, "Make key pair {.KeyName}", &[("Name", ".KeyName")]),
    Row(
        "POST",
        "/RunInstances",
        Code,
        "Start up to {.MaxCount} new instances of {.ImageId}[, {.InstanceType}]",
        &[
            ("Image", ".ImageId"),
            ("Kind", ".InstanceType"),
            ("At least", ".MinCount"),
            ("At most", ".MaxCount"),
            ("Key", ".KeyName"),
            ("Role", ".IamInstanceProfile.Name"),
            ("Start script, base64", ".UserData"),
        ],
    ),
    Row(
        "POST",
        "/ModifyInstanceAttribute",
        Code,
        "Change instance {.InstanceId}",
        &[
            ("Instance", ".InstanceId"),
            ("Kind", ".InstanceType.Value"),
            ("Start script, base64", ".UserData.Value"),
            ("Protected", ".DisableApiTermination.Value"),
        ],
    ),
    Row(
        "POST",
        "/CreateSnapshot",
        Write,
        "Take a snapshot of volume {.VolumeId}",
        &[("Volume", ".VolumeId"), ("Text", ".Description")],
    ),
];

const IAM: &[Row] = &[
    Row("POST", "/DeleteUser", Destructive, "Delete user {.UserName}", &[("User", ".UserName")]),
    Row("POST", "/DeleteRole", Destructive, "Delete role {.RoleName}", &[("Role", ".RoleName")]),
    Row(
        "POST",
        "/DeletePolicy",
        Destructive,
        "Delete policy {.PolicyArn}",
        &[("Policy", ".PolicyArn")],
    ),
    Row(
        "POST",
        "/DeleteAccessKey",
        Destructive,
        "Delete access key {.AccessKeyId}[ of user {.UserName}]",
        &[("Key", ".AccessKeyId"), ("User", ".UserName")],
    ),
    Row(
        "POST",
        "/AttachUserPolicy",
        People,
        "Give user {.UserName} the policy {.PolicyArn}",
        &[("User", ".UserName"), ("Policy", ".PolicyArn")],
    ),
    Row(
        "POST",
        "/AttachRolePolicy",
        People,
        "Give role {.RoleName} the policy {.PolicyArn}",
        &[("Role", ".RoleName"), ("Policy", ".PolicyArn")],
    ),
    Row(
        "POST",
        "/AttachGroupPolicy",
        People,
        "Give group {.GroupName} the policy {.PolicyArn}",
        &[("Group", ".GroupName"), ("Policy", ".PolicyArn")],
    ),
    Row(
        "POST",
        "/DetachUserPolicy",
        People,
        "Take the policy {.PolicyArn} from user {.UserName}",
        &[("User", ".UserName"), ("Policy", ".PolicyArn")],
    ),
    Row(
        "POST",
        "/DetachRolePolicy",
        People,
        "Take the policy {.PolicyArn} from role {.RoleName}",
        &[("Role", ".RoleName"), ("Policy", ".PolicyArn")],
    ),
    Row(
        "POST",
        "/PutUserPolicy",
        People,
        "Write policy {.PolicyName} for user {.UserName}",
        &[("User", ".UserName"), ("Name", ".PolicyName"), ("Policy", ".PolicyDocument")],
    ),
    Row(
        "POST",
        "/PutRolePolicy",
        People,
        "Write policy {.PolicyName} for role {.RoleName}",
        &[("Role", ".RoleName"), ("Name", ".PolicyName"), ("Policy", ".PolicyDocument")],
    ),
    Row(
        "POST",
        "/CreatePolicyVersion",
        People,
        "Write a new version of policy {.PolicyArn}",
        &[
            ("Policy", ".PolicyArn"),
            ("Text", ".PolicyDocument"),
            ("In force at once", ".SetAsDefault"),
        ],
    ),
    Row(
        "POST",
        "/UpdateAssumeRolePolicy",
        People,
        "Set who may take role {.RoleName}",
        &[("Role", ".RoleName"), ("Policy", ".PolicyDocument")],
    ),
    Row(
        "POST",
        "/AddUserToGroup",
        People,
        "Put user {.UserName} into group {.GroupName}",
        &[("User", ".UserName"), ("Group", ".GroupName")],
    ),
    Row(
        "POST",
        "/CreateAccessKey",
        People,
        "Make an access key[ for user {.UserName}]",
        &[("User", ".UserName")],
    ),
    Row(
        "POST",
        "/CreateLoginProfile",
        People,
        "Set a password for user {.UserName}",
        &[("User", ".UserName"), ("To be changed", ".PasswordResetRequired")],
    ),
    Row(
        "POST",
        "/DeactivateMFADevice",
        People,
        "Take the second factor {.SerialNumber} from user {.UserName}",
        &[("User", ".UserName"), ("Device", ".SerialNumber")],
    ),
    Row(
        "POST",
        "/CreateUser",
        People,
        "Create user {.UserName}",
        &[("User", ".UserName"), ("Path", ".Path")],
    ),
    Row(
        "POST",
        "/CreateRole",
        People,
        "Create role {.RoleName}",
        &[("Role", ".RoleName"), ("Who may take it", ".AssumeRolePolicyDocument")],
    ),
    Row("POST", "/GetUser", Read, "Read about user[ {.UserName}]", &[("User", ".UserName")]),
];

const STS: &[Row] = &[
    Row(
        "POST",
        "/AssumeRole",
        People,
        "Take role {.RoleArn}[ as {.RoleSessionName}]",
        &[
            ("Role", ".RoleArn"),
            ("As", ".RoleSessionName"),
            ("For, s", ".DurationSeconds"),
            ("Policy", ".Policy"),
        ],
    ),
    Row("POST", "/GetCallerIdentity", Read, "Ask whose key this is", &[]),
];

const LAMBDA: &[Row] = &[
    Row(
        "DELETE",
        "/2015-03-31/functions/{name}",
        Destructive,
        "Delete function {name}",
        &[("Version", "?Qualifier")],
    ),
    Row(
        "PUT",
        "/2015-03-31/functions/{name}/code",
        Code,
        "Replace the code of function {name}",
        &[
            ("From bucket", ".S3Bucket"),
            ("Object", ".S3Key"),
            ("Image", ".ImageUri"),
            ("Publish", ".Publish"),
        ],
    ),
    Row(
        "PUT",
        "/2015-03-31/functions/{name}/configuration",
        Code,
        "Change settings of function {name}",
        &[
            ("Role", ".Role"),
            ("Entry", ".Handler"),
            ("Environment", ".Environment"),
            ("Timeout, s", ".Timeout"),
            ("Layers", ".Layers"),
        ],
    ),
    Row(
        "POST",
        "/2015-03-31/functions/{name}/invocations",
        Code,
        "Run function {name}",
        &[("How", "@x-amz-invocation-type"), ("Version", "?Qualifier")],
    ),
    Row(
        "POST",
        "/2015-03-31/functions",
        Code,
        "Create function {.FunctionName}",
        &[
            ("Name", ".FunctionName"),
            ("Role", ".Role"),
            ("Runtime", ".Runtime"),
            ("Entry", ".Handler"),
            ("From bucket", ".Code.S3Bucket"),
            ("Object", ".Code.S3Key"),
        ],
    ),
    Row(
        "POST",
        "/2015-03-31/functions/{name}/policy",
        People,
        "Let {.Principal} use function {name}: {.Action}",
        &[
            ("Who", ".Principal"),
            ("What", ".Action"),
            ("Source", ".SourceArn"),
            ("Statement", ".StatementId"),
        ],
    ),
    Row(
        "POST",
        "/2021-10-31/functions/{name}/url",
        People,
        "Give function {name} an address, with access {.AuthType}",
        &[("Access", ".AuthType"), ("Other sites", ".Cors")],
    ),
    Row("GET", "/2015-03-31/functions/{name}", Read, "Read function {name}, its code too", &[]),
];

const DYNAMODB: &[Row] = &[
    Row(
        "POST",
        "/DeleteTable",
        Destructive,
        "Delete table {.TableName}",
        &[("Table", ".TableName")],
    ),
    Row(
        "POST",
        "/DeleteBackup",
        Destructive,
        "Delete backup {.BackupArn}",
        &[("Backup", ".BackupArn")],
    ),
    Row(
        "POST",
        "/DeleteItem",
        Destructive,
        "Delete an item of table {.TableName}: {.Key}",
        &[("Table", ".TableName"), ("Key", ".Key"), ("If", ".ConditionExpression")],
    ),
    Row(
        "POST",
        "/PutItem",
        Destructive,
        "Write an item of table {.TableName}, over what is there",
        &[("Table", ".TableName"), ("Item", ".Item"), ("If", ".ConditionExpression")],
    ),
    Row(
        "POST",
        "/UpdateItem",
        Write,
        "Change an item of table {.TableName}: {.Key}",
        &[
            ("Table", ".TableName"),
            ("Key", ".Key"),
            ("Change", ".UpdateExpression"),
            ("Values", ".ExpressionAttributeValues"),
            ("Names", ".ExpressionAttributeNames"),
            ("If", ".ConditionExpression"),
        ],
    ),
    Row(
        "POST",
        "/BatchWriteItem",
        Destructive,
        "Write or delete items of several tables",
        &[("Items", ".RequestItems")],
    ),
    Row(
        "POST",
        "/TransactWriteItems",
        Destructive,
        "Write or delete items, all or none",
        &[("Items", ".TransactItems")],
    ),
    Row(
        "POST",
        "/ExecuteStatement",
        Destructive,
        "Run {'.Statement}",
        &[("Statement", ".Statement"), ("Values", ".Parameters")],
    ),
    Row(
        "POST",
        "/UpdateTable",
        Write,
        "Change table {.TableName}",
        &[
            ("Table", ".TableName"),
            ("Protected", ".DeletionProtectionEnabled"),
            ("Throughput", ".ProvisionedThroughput"),
        ],
    ),
    Row(
        "POST",
        "/UpdateTimeToLive",
        Destructive,
        "Set when items of table {.TableName} are deleted by themselves",
        &[("Table", ".TableName"), ("How", ".TimeToLiveSpecification")],
    ),
    Row(
        "POST",
        "/CreateTable",
        Write,
        "Create table {.TableName}",
        &[
            ("Table", ".TableName"),
            ("Keys", ".KeySchema"),
            ("Attributes", ".AttributeDefinitions"),
            ("Paid", ".BillingMode"),
        ],
    ),
    Row(
        "POST",
        "/GetItem",
        Read,
        "Read an item of table {.TableName}",
        &[("Table", ".TableName"), ("Key", ".Key")],
    ),
    Row(
        "POST",
        "/Query",
        Read,
        "Query table {.TableName}",
        &[("Table", ".TableName"), ("For", ".KeyConditionExpression")],
    ),
    Row("POST", "/Scan", Read, "Read all of table {.TableName}", &[("Table", ".TableName")]),
    Row("POST", "/ListTables", Read, "List tables", &[]),
];
