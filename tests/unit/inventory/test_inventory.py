"""Site files: what is right is read, what is wrong is named with its line."""

from pathlib import Path

import pytest

from vedr.errors import InvalidInputError, NotFoundError
from vedr.inventory import Site, find_site, load_site, parse_site

EXAMPLE = Path(__file__).parents[3] / "deployments" / "sites" / "production.example.toml"


@pytest.fixture(scope="module")
def text() -> str:
    return EXAMPLE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(text: str) -> Site:
    return parse_site(text, source="example.toml")


def test_the_example_of_production_keeps_every_rule(site: Site) -> None:
    assert site.kind == "production"
    assert site.regions_by_priority == ("us-east", "eu-west", "ap-south")
    assert [node.name for node in site.nodes_in("us-east", "archive")] == ["fullnode-us-east-1"]


@pytest.mark.parametrize(
    ("old", "new", "line_of", "said"),
    [
        ("workload_pct = 40", "workload_pct = 140", "workload_pct = 140", "less than or equal to 100"),
        ('role = "validator"', 'role = "validator"\ncolor = "red"', 'color = "red"', "Extra inputs"),
        ('chain_id = "virtengine-1"', 'chain_id = ""', 'chain_id = ""', "match"),
        ('key = "aws-secret:virtengine/dr/site-key"', 'key = "hunter2"', 'key = "hunter2"', "match"),
        ('chain_state = "0 */4 * * *"', 'chain_state = "often"', 'chain_state = "often"', "match"),
        ("RB-DR-001 = 300", "RB-DR-009 = 300", "RB-DR-009 = 300", "RB-DR-001"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(text: str, old: str, new: str, line_of: str, said: str) -> None:
    assert old in text
    changed = text.replace(old, new, 1)
    line = next(n for n, content in enumerate(changed.splitlines(), 1) if content.startswith(line_of))
    with pytest.raises(InvalidInputError) as caught:
        parse_site(changed, source="x.toml")
    assert f"x.toml:{line}:" in caught.value.message
    assert said in caught.value.message


KEY_FILE = """[[key_files]]
validator = "validator-us-east-0"
hosts = ["fullnode-eu-west-0"]
fences = { validator-us-east-0 = ["process-and-disk", "instance"] }

"""


def with_key_file(text: str) -> str:
    """The example, its validator signing from a file that may be moved."""
    begin, end = text.index("[[signers]]"), text.index("# How units are stopped")
    return text[:begin] + KEY_FILE + text[end:]


def test_a_key_file_names_all_hosts_that_ever_hold_the_key_and_how_each_is_fenced(text: str) -> None:
    site = parse_site(with_key_file(text), source="x.toml")
    key_file = site.key_file_of("validator-us-east-0")
    assert key_file
    assert key_file.every_host == ("validator-us-east-0", "fullnode-eu-west-0")
    assert key_file.ways("validator-us-east-0") == ("process-and-disk", "instance")
    assert key_file.ways("fullnode-eu-west-0") == ("process-and-disk",)
    assert site.key_file_of("fullnode-eu-west-0") is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('hosts = ["fullnode-eu-west-0"]', 'hosts = ["validator-us-east-0"]', "name each full node once"),
        ('hosts = ["fullnode-eu-west-0"]', 'hosts = ["nobody"]', "no full node of this site"),
        (KEY_FILE, KEY_FILE.replace("validator-us", "fullnode-us"), "no validator of this"),
        ("fences = { validator-us-east-0", "fences = { fullnode-us-east-0", "none of its hosts"),
        ('["process-and-disk", "instance"]', "[]", "name one way or more"),
        ("fences = { validator-us-east-0", "fences = { fullnode-eu-west-0", "[fleet.instances] names none for it"),
        (KEY_FILE, KEY_FILE + KEY_FILE, "is a host of 2 key files"),
    ],
)
def test_a_key_file_that_leaves_a_host_in_doubt_is_refused(text: str, old: str, new: str, said: str) -> None:
    changed = with_key_file(text)
    assert old in changed
    with pytest.raises(InvalidInputError) as caught:
        parse_site(changed.replace(old, new, 1), source="x.toml")
    assert said in caught.value.message


def test_a_validator_that_signs_remotely_has_no_key_file_to_move(text: str) -> None:
    with pytest.raises(InvalidInputError, match="it signs remotely"):
        parse_site(text + KEY_FILE, source="x.toml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "fullnode-us-east-1"', 'name = "fullnode-us-east-0"', "is used 2 times"),
        ('work_pool = "eu-west"', 'work_pool = "us-east"', "is used 2 times"),
        ("priority = 2", "priority = 1", "is used 2 times"),
        ('zones = ["us-east-1a", "us-east-1b"]', 'zones = ["us-east-1a"]', "at least 2"),
        ('zone = "ap-south-1b"', 'zone = "ap-south-1z"', "does not have"),
        ('role = "archive"', 'role = "full"', "no archive node"),
        ("power = 10\n", "", "power and address"),
        ('validator = "validator-us-east-0"', 'validator = "fullnode-us-east-0"', "is no validator of this site"),
        ('node = "fullnode-eu-west-0"', 'node = "validator-eu-west-0"', "or a full node"),
        ('node = "validator-us-east-0"', 'node = "fullnode-us-east-0"', "none at home"),
        ('name = "validator-us-east-0-signer"', 'name = "validator-us-east-0-at-fullnode-eu-west-0"', "keep one"),
        ("# trust_height = 1234567", "trust_height = 1234567", "belong together"),
        ('mode = "aes-256-gcm"', 'mode = "none"', "encryption.key"),
        ("object_lock_days = 102", "object_lock_days = 90", "ends before the last snapshot"),
    ],
)
def test_a_broken_rule_is_refused(text: str, old: str, new: str, said: str) -> None:
    assert old in text
    with pytest.raises(InvalidInputError) as caught:
        parse_site(text.replace(old, new), source="x.toml")
    assert said in caught.value.message


def test_two_validators_of_one_key_are_refused_since_each_would_be_fenced_on_its_own_hosts_only(text: str) -> None:
    begin = text.index("[[nodes]]")
    block = text[begin : text.index("[[nodes]]", begin + 1)]
    assert 'role = "validator"' in block
    twin = block.replace('name = "validator-us-east-0"', 'name = "validator-us-east-9"')
    with pytest.raises(InvalidInputError, match=r"address '0{40}' is used 2 times"):
        parse_site(text[:begin] + twin + text[begin:], source="x.toml")


@pytest.mark.parametrize("kind", ["backups", "registers"])
def test_two_regions_of_one_bucket_are_refused_since_each_copy_and_each_voice_would_count_twice(
    text: str, kind: str
) -> None:
    shared = f'bucket = "virtengine-dr-{kind}-us-east-1"'
    changed = text.replace(f'bucket = "virtengine-dr-{kind}-eu-west-1"', shared)
    with pytest.raises(InvalidInputError) as caught:
        parse_site(changed, source="x.toml")
    said = f"bucket for {kind} 'virtengine-dr-{kind}-us-east-1' is used by 2 regions: give each its own"
    assert caught.value.message.endswith(said)


def test_registers_in_one_region_s_bucket_for_backups_are_not_another_region_s_too(text: str) -> None:
    lines = [line for line in text.splitlines() if not line.startswith("register_bucket")]
    assert parse_site("\n".join(lines), source="x.toml"), "each in its own region's"
    shared = 'bucket = "virtengine-dr-backups-eu-west-1"'
    changed = "\n".join(lines).replace(shared, f'{shared}\nregister_bucket = "virtengine-dr-backups-us-east-1"')
    with pytest.raises(InvalidInputError, match=r"bucket for registers .* is used by 2 regions"):
        parse_site(changed, source="x.toml")


def test_buckets_of_one_name_at_different_endpoints_are_different_ones(text: str) -> None:
    changed = text
    for region in ("us-east-1", "eu-west-1", "ap-south-1"):
        here = f'bucket = "virtengine-dr-backups-{region}"'
        changed = changed.replace(here, f'bucket = "backups"\nendpoint = "https://{region}.example.test"')
    assert {region.store.bucket for region in parse_site(changed, source="x.toml").regions.values()} == {"backups"}


def test_an_error_never_shows_a_value_that_may_be_a_secret(text: str) -> None:
    changed = text.replace("aws-secret:virtengine/dr/site-key", "hunter2-the-key-itself")
    with pytest.raises(InvalidInputError) as caught:
        parse_site(changed, source="x.toml")
    assert "hunter2" not in str(caught.value)


def test_text_that_is_not_toml_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="not TOML"):
        parse_site("version = ", source="x.toml")


def test_a_site_that_is_nowhere_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEDR_SITES", str(tmp_path))
    with pytest.raises(NotFoundError, match="make up") as caught:
        find_site("nowhere")
    assert str(tmp_path / "nowhere.toml") in caught.value.message


def test_a_site_is_found_by_name_by_path_and_by_the_environment(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("VEDR_SITES", str(tmp_path))
    assert load_site("mine") == load_site(str(tmp_path / "mine.toml"))
    monkeypatch.setenv("VEDR_SITE", "mine")
    assert load_site().name == "production"


def test_asking_for_what_the_site_lacks_lists_what_it_has(site: Site) -> None:
    with pytest.raises(NotFoundError, match="fullnode-eu-west-0"):
        site.node("nobody")
    with pytest.raises(NotFoundError, match="ap-south"):
        site.region("mars")


def test_what_stands_in_a_zone_is_everything(site: Site) -> None:
    assert len(site.placed) == len(site.nodes) + len(site.providers) + len(site.gateways)
    assert site.total_power == 10
