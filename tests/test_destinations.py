"""destinations.toml: what it says, and what it answers to a file that cannot be used."""

from pathlib import Path

import pytest

from hipnode.destinations import (
    Destination,
    DestinationsFile,
    RemoteAE,
    Sender,
    load_destinations,
    routes_for,
    routes_for_senders,
)
from hipnode.errors import SettingsError


def write(folder: Path, text: str) -> Path:
    file = folder / "destinations.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_an_empty_file_is_no_destination(tmp_path: Path, text: str) -> None:
    assert load_destinations(write(tmp_path, text)) == []


def test_no_file_is_no_destination(tmp_path: Path) -> None:
    assert load_destinations(None) == []
    assert load_destinations(tmp_path / "destinations.toml") == []


def test_a_destination_takes_everything_from_everyone_unless_it_says_otherwise(tmp_path: Path) -> None:
    file = write(tmp_path, '[[destination]]\nname="pacs"\nae_title="PACS"\nhost="10.0.0.5"\nport=104\n')
    (pacs,) = load_destinations(file)
    assert pacs == Destination("pacs", "PACS", "10.0.0.5", 104)
    assert (pacs.kinds, pacs.sr_class, pacs.sc_max_px) == (("SR", "SC"), "comprehensive", 0)
    assert pacs.remote == RemoteAE("PACS", "10.0.0.5", 104)
    assert routes_for([pacs], "ANYBODY", "192.0.2.1") == [pacs]


def test_all_that_can_be_said_of_a_destination_is_read(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        [[destination]]
        name = "research"
        ae_title = " RESEARCH "
        host = "research.example.org"
        port = 11112
        sources = ["CR_1", "CR_2 "]
        kinds = ["SR"]
        sr_class = "comprehensive3d"
        sc_max_px = 2048
        """,
    )
    assert load_destinations(file) == [
        Destination(
            "research",
            "RESEARCH",
            "research.example.org",
            11112,
            frozenset({"CR_1", "CR_2"}),
            ("SR",),
            "comprehensive3d",
            2048,
        )
    ]


def test_a_destination_gets_the_studies_of_its_sources_only(tmp_path: Path) -> None:
    pacs = Destination("pacs", "PACS", "10.0.0.5", 104)
    ward = Destination("ward", "WARD", "10.0.0.6", 104, sources=frozenset({"CR_1"}))
    assert routes_for([pacs, ward], "CR_1", "192.0.2.1") == [pacs, ward]
    assert routes_for([pacs, ward], "CR_9", "192.0.2.1") == [pacs]
    assert routes_for([], "CR_1", "192.0.2.1") == []


def test_back_to_the_sender_is_the_host_it_called_from(tmp_path: Path) -> None:
    file = write(tmp_path, '[[destination]]\nname="back"\nsender=true\nport=4242\n')
    (back,) = load_destinations(file)
    (route,) = routes_for([back], "CR_1", "192.0.2.1")
    assert (route.name, route.remote) == ("back", RemoteAE("CR_1", "192.0.2.1", 4242))


def test_back_to_the_sender_may_name_another_ae_title(tmp_path: Path) -> None:
    file = write(tmp_path, '[[destination]]\nname="back"\nsender=true\nport=4242\nae_title="STORE"\n')
    (route,) = routes_for(load_destinations(file), "ROUTER", "::1")
    assert route.remote == RemoteAE("STORE", "::1", 4242)


def test_a_study_of_two_senders_goes_back_to_the_latest_that_is_served() -> None:
    back = Destination("back", "", "", 104, sources=frozenset({"A", "B"}), sender=True)
    senders = [Sender("A", "192.0.2.1"), Sender("B", "192.0.2.2"), Sender("C", "192.0.2.3")]
    assert [route.remote for route in routes_for_senders([back], senders)] == [
        RemoteAE("B", "192.0.2.2", 104)
    ]
    assert routes_for_senders([back], senders[2:]) == []


def test_every_problem_of_a_file_is_named_in_one_sentence(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        timeout = 3
        [[destination]]
        name = "pacs"
        ae_title = "A_TITLE_THAT_IS_TOO_LONG"
        hosts = "10.0.0.5"
        port = 70000
        kinds = ["SR", "GIF"]
        [[destination]]
        name = "pacs"
        ae_title = 'A\\B'
        host = "h"
        port = true
        sources = []
        sr_class = "basic"
        sc_max_px = "big"
        [[destination]]
        sender = true
        host = "h"
        """,
    )
    with pytest.raises(SettingsError) as caught:
        load_destinations(file)
    _, *problems = [line.strip() for line in str(caught.value).splitlines()]
    assert problems == [
        "The top of the file knows only [[destination]], not 'timeout'.",
        "Destination 'pacs' does not know 'hosts'; is 'host' meant?",
        "Destination 'pacs' has 'A_TITLE_THAT_IS_TOO_LONG' in ae_title; "
        "an AE title is 1 to 16 ASCII characters without '\\'.",
        "Destination 'pacs' needs a host (or sender = true).",
        "Destination 'pacs' has port = 70000; it is 1 to 65535.",
        "Destination 'pacs' has 'GIF' in kinds; it is some of 'SR', 'SC'.",
        "Destination 'pacs' has 'A\\\\B' in ae_title; an AE title is 1 to 16 ASCII characters without '\\'.",
        "Destination 'pacs' has port = True; it is a whole number.",
        "Destination 'pacs' has an empty list of sources and would get nothing; leave it out for all.",
        "Destination 'pacs' has sr_class = 'basic'; it is one of 'comprehensive', 'comprehensive3d'.",
        "Destination 'pacs' has sc_max_px = 'big'; it is a whole number of pixels.",
        "Destination 3 needs a name.",
        "Destination 3 has sender = true and a host; the host is then the sender's, leave one of them out.",
        "Destination 3 needs a port.",
        "The name 'pacs' is used 2 times; each needs its own.",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("destination = 3", "with two brackets"),
        ('[destination]\nname = "pacs"', "with two brackets"),
        ("[[destination", "is not valid TOML"),
    ],
)
def test_a_file_that_is_no_list_of_destinations_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        load_destinations(write(tmp_path, text))


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_destinations(tmp_path)


PACS = '[[destination]]\nname="pacs"\nae_title="PACS"\nhost="h"\nport=104\n'


def test_a_changed_file_is_read_again_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "destinations.toml"
    destinations = DestinationsFile(file)
    assert destinations.current() == []
    write(tmp_path, PACS)
    assert [one.name for one in destinations.current()] == ["pacs"]
    write(tmp_path, PACS.replace("104", "'x'"))
    assert [one.port for one in destinations.current()] == [104]
    write(tmp_path, PACS.replace("104", "11112"))
    assert destinations.named("pacs") == Destination("pacs", "PACS", "h", 11112)
    assert destinations.named("gone") is None
    file.unlink()
    assert destinations.current() == []
