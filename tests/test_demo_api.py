"""The demo's NeuroVault and Neurosynth answer as the real ones were seen to, quirks included."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from waiting import PATIENCE_S

from nvcatalog.demo import DemoServer, World
from nvcatalog.demo.decoding import decode_values, vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable

    Get = Callable[..., requests.Response]
    Decode = Callable[[int], requests.Response]


def ids(response: requests.Response) -> list[int]:
    return [record["id"] for record in response.json()["results"]]


# Records and lists


def test_api_root_lists_its_end_points(server: DemoServer, get: Get) -> None:
    root = get("/api/").json()
    assert sorted(root) == ["atlases", "collections", "images", "my_collections", "nidm_results"]
    assert root["images"] == f"{server.neurovault_url}/api/images/"


def test_records_have_the_documented_keys(get: Get) -> None:
    assert len(get("/api/collections/555/").json()) == 107
    assert len(get("/api/images/9034/").json()) == 55
    assert len(get("/api/images/14227/").json()) == 37
    assert get("/api/images/14227/").json()["image_type"] == "atlas"


def test_collection_knows_how_many_images_it_has(world: World, get: Get) -> None:
    assert get("/api/collections/555/").json()["number_of_images"] == 20
    world.delete_image(9034)
    world.add_nidm_pack(555, "fsl.nidm", n_maps=3)
    # 19 images, 3 maps of a pack, and the pack itself; the list has no pack.
    assert get("/api/collections/555/").json()["number_of_images"] == 23
    assert get("/api/collections/555/images/").json()["count"] == 22


@pytest.mark.parametrize("limit", [1, 3, 7, 19, 20, 21, 1000])
def test_paging_a_collection_is_exact_at_every_limit(get: Get, limit: int) -> None:
    seen: list[int] = []
    for offset in range(0, 20, limit):
        page = get("/api/collections/555/images/", params={"limit": limit, "offset": offset})
        assert page.json()["count"] == 20
        seen += ids(page)
    assert seen == list(range(9034, 9054))


def test_page_links_are_those_of_the_real_server(server: DemoServer, get: Get) -> None:
    url = f"{server.neurovault_url}/api/collections/555/images/"
    middle = get("/api/collections/555/images/?offset=8&zoo=1&limit=8").json()
    assert middle["next"] == f"{url}?limit=8&offset=16&zoo=1"
    assert middle["previous"] == f"{url}?limit=8&zoo=1"
    assert get("/api/collections/555/images/").json()["next"] is None
    past = get("/api/collections/555/images/?offset=100000").json()
    assert past == {"count": 20, "next": None, "previous": f"{url}?limit=100&offset=99900", "results": []}


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=abc", "limit=", "page=3", "offset=-5", ""])
def test_silly_pages_are_the_first_hundred(client: requests.Session, query: str) -> None:
    world = World.empty()
    world.add_collection(id=1, images=130)
    with DemoServer(world) as server:
        page = client.get(f"{server.neurovault_url}/api/collections/1/images/?{query}", timeout=PATIENCE_S)
    assert ids(page) == list(range(1, 101))


def test_pages_hold_at_most_a_thousand(client: requests.Session) -> None:
    world = World.empty()
    world.add_synthetic(1, 1005, file_bytes=2_000)
    with DemoServer(world) as server:
        page = client.get(f"{server.neurovault_url}/api/collections/1/images/?limit=5000", timeout=PATIENCE_S)
    assert len(ids(page)) == 1000
    assert "limit=1000&offset=1000" in page.json()["next"]


def test_links_follow_the_host_the_client_used_and_are_never_https(get: Get) -> None:
    record = get("/api/images/10426/", headers={"Host": "neurovault.org"}).json()
    assert record["file"] == "http://neurovault.org/media/images/658/left_vs_right_button_press.nii.gz"
    assert record["collection"] == "http://neurovault.org/collections/658/"
    assert record["url"] == "http://neurovault.org/images/10426/"
    assert record["surface_left_file"] is None


def test_path_without_slash_is_redirected_by_a_relative_location(get: Get) -> None:
    answer = get("/api/collections/555/images?limit=2", allow_redirects=False)
    assert (answer.status_code, answer.content) == (301, b"")
    assert answer.headers["Location"] == "/api/collections/555/images/?limit=2"
    assert len(ids(get("/api/collections/555/images?limit=2"))) == 2


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/collections/99999/", 404),
        ("/api/collections/0/", 404),
        ("/api/collections/-5/", 404),
        ("/api/collections/1.0/", 404),
        ("/api/collections/12345678901234567890/", 404),
        ("/api/collections/ZZZZZZZZ/", 404),
        ("/api/images/99999/", 404),
        ("/api/images/abc/", 404),
        ("/api/atlases/9034/", 404),
        ("/api/nidm_results/9034/", 404),
        ("/api/images/9034/?format=xml", 404),
        ("/api/my_collections/", 401),
        ("/api/user/", 401),
    ],
)
def test_api_refuses_in_json(get: Get, path: str, status: int) -> None:
    answer = get(path)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert list(answer.json()) == ["detail"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/collections/abc/", 500),
        ("/api/collections/1.json/", 500),
        ("/api/collections/abcdefgh/images/", 500),
        ("/api/nope/", 404),
        ("/nope", 404),
        ("/media/images/555/nope.nii.gz", 404),
        ("/media/images/555/obesity_higher_ALE.nii.gz/", 404),
    ],
)
def test_other_errors_are_html(get: Get, path: str, status: int) -> None:
    answer = get(path)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<!doctype html>" in answer.text


def test_authentication_and_accept_headers_are_answered_as_observed(get: Get) -> None:
    assert get("/api/images/9034/", headers={"Authorization": "Token x"}).json() == {"detail": "Invalid token."}
    assert get("/api/images/9034/", headers={"Accept": "application/xml"}).status_code == 406
    for_people = get("/api/images/9034/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (for_people.status_code, for_people.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert get("/api/my_collections/").headers["WWW-Authenticate"] == "Token"


def test_writing_needs_an_account(server: DemoServer, client: requests.Session) -> None:
    collection = f"{server.neurovault_url}/api/collections/555/"
    assert client.post(f"{collection}images/", data=b"x" * 5000, timeout=PATIENCE_S).status_code == 401
    assert client.get(collection, timeout=PATIENCE_S).status_code == 200


def test_json_is_gzipped_in_chunks_for_those_who_accept_it(get: Get) -> None:
    packed = get("/api/collections/555/images/")
    plain = get("/api/collections/555/images/", headers={"Accept-Encoding": "identity"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in packed.headers
    assert int(plain.headers["Content-Length"]) == len(plain.content)
    assert packed.json() == plain.json()
    assert not {"ETag", "Last-Modified", "Cache-Control"} & set(plain.headers)


def test_datatables_hold_only_what_is_set(get: Get) -> None:
    rows = dict(get("/api/images/9034/datatable/").json()["aaData"])
    assert rows["id"] == 9034
    assert all(rows.values())
    assert dict(get("/api/collections/555/datatable/").json()["aaData"])["owner_name"] == "IGarcia"


def test_atlases_lose_their_image_type_in_their_own_lists(get: Get) -> None:
    for path in ("/api/atlases/", "/api/collections/1056/atlases/"):
        first = get(path).json()["results"][0]
        assert (first["id"], len(first), "image_type" in first) == (14227, 36, False)
    assert get("/api/atlases/14227/").json()["image_type"] == "atlas"


def test_nidm_packs_have_a_list_and_ids_of_their_own(world: World, get: Get) -> None:
    pack_id = world.add_nidm_pack(1197, "spm.nidm")
    pack = get(f"/api/nidm_results/{pack_id}/").json()
    assert pack["collection"] == 1197
    assert [len(image) for image in pack["statmaps"]] == [46, 46]
    assert pack["statmaps"][0]["file"].endswith("/media/images/1197/spm.nidm/TStatistic.nii.gz")
    assert get(f"/api/images/{pack_id}/").status_code == 404
    assert get("/api/collections/1197/nidm_results/").json()["results"] == [pack]
    assert "modality" not in get(f"/api/images/{pack_id + 1}/").json()


# Lists without an order


def read_list(server: DemoServer, client: requests.Session, path: str, limit: int) -> tuple[int, list[int]]:
    """Page through a list as a client would; return its count and all ids got."""
    got: list[int] = []
    count = 1
    while len(got) < count:
        page = client.get(
            f"{server.neurovault_url}{path}", params={"limit": limit, "offset": len(got)}, timeout=PATIENCE_S
        )
        count = page.json()["count"]
        got += ids(page)
    return count, got


def test_list_of_all_images_has_no_order_and_loses_rows_in_small_pages(
    server: DemoServer, client: requests.Session
) -> None:
    count, got = read_list(server, client, "/api/images/", limit=10)
    assert count == len(got) == 72
    assert len(set(got)) == 69
    assert got != sorted(got)
    count, got = read_list(server, client, "/api/images/", limit=100)
    assert len(set(got)) == count


def test_list_of_collections_can_be_shuffled_and_loses_other_rows_at_each_read(client: requests.Session) -> None:
    world = World.empty()
    for number in range(30):
        world.add_collection(id=100 + number)
    with DemoServer(world, ordered=False) as server:
        _, first = read_list(server, client, "/api/collections/", limit=10)
        _, second = read_list(server, client, "/api/collections/", limit=10)
        _, whole = read_list(server, client, "/api/collections/", limit=100)
    assert len(first) == 30
    assert len(set(first)) == len(set(second)) == 27
    assert set(first) | set(second) == set(whole) == set(range(100, 130))


def test_list_of_collections_is_in_order_by_default(server: DemoServer, client: requests.Session) -> None:
    _, got = read_list(server, client, "/api/collections/", limit=3)
    assert got == [3, 63, 457, 555, 658, 1039, 1056, 1058, 1197, 1952]


# Filters


def test_filters_are_ignored_by_default(get: Get) -> None:
    assert get("/api/collections/?DOI=10.1111/obr.12221&owner=1").json()["count"] == 10


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"DOI": "10.1111/obr.12221"}, [555]),
        ({"DOI": "10.1111/OBR.12221"}, []),
        ({"owner": "1", "DOI": "10.1038/nn1075"}, [1056]),
        ({"owner": "224", "DOI": "10.1038/nn1075"}, []),
        ({"owner": "224", "name": ""}, [555]),
        ({"id": "555", "owner": "224"}, [555]),
    ],
)
def test_filters_are_exact_where_honoured(
    client: requests.Session, query: dict[str, str], expected: list[int]
) -> None:
    with DemoServer(honour_filters=True) as server:
        answer = client.get(f"{server.neurovault_url}/api/collections/", params=query, timeout=PATIENCE_S)
        unknown = client.get(f"{server.neurovault_url}/api/collections/?owner=nobody", timeout=PATIENCE_S)
    assert ids(answer) == expected
    assert unknown.status_code == 400
    assert list(unknown.json()) == ["owner"]


# Broken records and private collections


def test_page_that_holds_a_broken_record_fails_and_smaller_pages_go_around_it(world: World, get: Get) -> None:
    world.poison_image(9040)
    answer = get("/api/collections/555/images/")
    assert (answer.status_code, answer.headers["Content-Type"]) == (500, "text/html; charset=utf-8")
    assert get("/api/images/9040/").status_code == 500
    assert get("/api/images/?limit=1000").status_code == 500
    assert get("/api/collections/555/").status_code == 200
    assert ids(get("/api/collections/555/images/?limit=6")) == list(range(9034, 9040))
    assert get("/api/collections/555/images/?limit=1&offset=6").status_code == 500
    assert ids(get("/api/collections/555/images/?limit=100&offset=7"))[0] == 9041
    world.cure(9040)
    assert len(ids(get("/api/collections/555/images/"))) == 20


def test_broken_collection_breaks_its_page_but_not_its_images(world: World, get: Get) -> None:
    world.poison_collection(555)
    assert get("/api/collections/").status_code == 500
    assert get("/api/collections/555/").status_code == 500
    assert ids(get("/api/collections/?limit=3")) == [3, 63, 457]
    assert get("/api/collections/555/images/").status_code == 200


def test_private_collection_is_reached_by_its_token_alone(world: World, server: DemoServer, get: Get) -> None:
    world.make_private(1197, "ABCDEFGH")
    for path in ("/api/collections/1197/", "/api/collections/1197/images/"):
        assert get(path).status_code == 403
        assert get(path).json() == {"detail": "You do not have permission to perform this action."}
    assert 1197 not in ids(get("/api/collections/"))
    assert get("/api/images/16256/").status_code == 404
    assert get("/api/images/WRONGTOK-16256/").status_code == 403
    assert get("/api/images/WRONGTOK-9034/").status_code == 200
    collection = get("/api/collections/ABCDEFGH/").json()
    assert (collection["id"], collection["private"]) == (1197, True)
    assert collection["url"] == f"{server.neurovault_url}/collections/ABCDEFGH/"
    assert ids(get("/api/collections/ABCDEFGH/images/")) == [16256, 16257]


def test_links_of_a_private_image_carry_the_token(world: World, get: Get) -> None:
    world.make_private(1197, "ABCDEFGH")
    image = get("/api/images/ABCDEFGH-16256/").json()
    path = urlsplit(image["file"]).path
    assert path == "/media/images/ABCDEFGH/CUMl_BP_MNI.nii.gz"
    assert urlsplit(image["url"]).path == "/collections/ABCDEFGH/images/16256/"
    assert urlsplit(image["collection"]).path == "/collections/ABCDEFGH/"
    assert image["collection_id"] == 1197
    assert get(path).content == world.image_bytes(16256)
    refused = get("/media/images/1197/CUMl_BP_MNI.nii.gz")
    assert (refused.status_code, refused.headers["Content-Type"]) == (403, "text/html; charset=utf-8")


def test_what_is_beside_the_maps_of_a_private_collection_is_reached_by_its_token_alone(
    world: World, get: Get
) -> None:
    world.add_labels(14227, ["One", "Two"])
    world.add_surfaces(14227)
    pack_id = world.add_nidm_pack(1056, "spm.nidm")
    world.make_private(1056, "ABCDEFGH")
    [pack] = get("/api/collections/ABCDEFGH/nidm_results/").json()["results"]
    image = get("/api/images/ABCDEFGH-14227/").json()
    links = [pack["zip_file"], pack["ttl_file"], pack["statmaps"][0]["file"]]
    links += [image[key] for key in ("label_description_file", "surface_left_file", "surface_right_file")]
    for path in (urlsplit(link).path for link in links):
        assert get(path).status_code == 200
        refused = get(path.replace("ABCDEFGH", "1056"))
        assert (refused.status_code, refused.headers["Content-Type"]) == (403, "text/html; charset=utf-8")
        assert get(path.replace("ABCDEFGH", "ZZZZZZZZ")).status_code == 404
    assert image["label_description_file"] not in (None, "")
    assert all("/ABCDEFGH/" in link for link in links)
    assert get(f"/api/nidm_results/{pack_id}/").status_code == 404
    assert 14227 not in ids(get("/api/atlases/"))
    assert ids(get("/api/collections/ABCDEFGH/atlases/")) == [14227, 14228]


def test_every_link_of_a_private_collection_carries_its_token_and_none_its_number(world: World, get: Get) -> None:
    world.add_nidm_pack(1056, "spm.nidm")
    world.make_private(1056, "ABCDEFGH")
    for what in ("", "images/", "atlases/", "nidm_results/"):
        text = get(f"/api/collections/ABCDEFGH/{what}?limit=1000").text
        assert "/ABCDEFGH/" in text
        assert "/collections/1056/" not in text
        assert "/images/1056/" not in text
        assert '"/' not in text


@pytest.mark.parametrize(
    "path", ["/media/images/1197/nope", "/media/images/1197/a/b.nii.gz", "/collections/1197/x.nidm.zip"]
)
def test_a_private_collection_does_not_tell_what_it_holds(world: World, get: Get, path: str) -> None:
    world.make_private(1197, "ABCDEFGH")
    assert get(path).status_code == 403
    assert "<!doctype html>" in get(path).text


# Files


def test_each_kind_of_file_has_its_type(world: World, get: Get) -> None:
    left, right = world.add_surfaces(9034)
    pack = world.pack(world.add_nidm_pack(555, "spm.nidm")) or {}
    for path, kind in (
        (world.add_labels(14227, ["One"]), "application/xml"),
        (left, "application/octet-stream"),
        (right, "application/octet-stream"),
        (pack["zip_file"], "application/zip"),
        (pack["ttl_file"], "text/turtle"),
    ):
        answer = get(path)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, kind)
        assert get(path, headers={"Range": "bytes=5-"}).content == answer.content[5:]
        assert get(path, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304


def test_a_pack_has_its_files_beside_its_page_and_its_maps_under_media(world: World, get: Get) -> None:
    pack = world.pack(world.add_nidm_pack(555, "spm.nidm")) or {}
    assert pack["zip_file"] == "/collections/555/spm.nidm.zip"
    assert get("/media/images/555/spm.nidm.zip").status_code == 404
    assert get("/collections/555/spm.nidm").status_code == 404
    assert get("/collections/555/").status_code == 404
    with zipfile.ZipFile(io.BytesIO(get(pack["zip_file"]).content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["nidm.ttl", "TStatistic.nii.gz", "TStatistic_0001.nii.gz"]
        assert archive.read("nidm.ttl") == get(pack["ttl_file"]).content
        assert archive.read("TStatistic.nii.gz") == world.image_bytes(pack["statmaps"][0]["id"])


def test_a_pack_that_is_unknown_is_forbidden_by_an_empty_page(get: Get) -> None:
    answer = get("/collections/555/spm.nidm.zip")
    assert (answer.status_code, answer.content) == (403, b"")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert get("/collections/99999/spm.nidm.zip").status_code == 404
    assert get("/collections/ZZZZZZZZ/spm.nidm.zip").status_code == 404


def test_files_are_served_whole_with_their_length_and_date(world: World, get: Get) -> None:
    answer = get(world.file_path(10426))
    assert answer.content == world.image_bytes(10426)
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Last-Modified"] == "Sat, 30 Jun 2018 04:00:00 GMT"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["ETag"] == f'"5b370040-{len(answer.content):x}"'
    assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("bytes=0-99", slice(0, 100)),
        ("bytes=500-", slice(500, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=10-9999999", slice(10, None)),
    ],
)
def test_ranges_give_that_part(world: World, get: Get, wanted: str, part: slice) -> None:
    data = world.image_bytes(10426)
    answer = get(world.file_path(10426), headers={"Range": wanted})
    start, stop, _ = part.indices(len(data))
    assert answer.status_code == 206
    assert answer.content == data[part]
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(data)}"


def test_range_past_the_end_is_416_and_a_silly_one_ignored(world: World, get: Get) -> None:
    path, size = world.file_path(10426), len(world.image_bytes(10426))
    past = get(path, headers={"Range": f"bytes={size}-"})
    assert past.status_code == 416
    assert past.headers["Content-Range"] == f"bytes */{size}"
    for silly in ("bytes=-", "bytes=0-1,5-6", "lines=1-2"):
        assert get(path, headers={"Range": silly}).status_code == 200


def test_if_range_gives_the_part_only_of_the_same_file(world: World, get: Get) -> None:
    path = world.file_path(10426)
    whole = get(path)
    for known, status in (
        (whole.headers["ETag"], 206),
        (whole.headers["Last-Modified"], 206),
        ('"another"', 200),
        ("Sat, 30 Jun 2018 04:00:01 GMT", 200),
    ):
        answer = get(path, headers={"Range": "bytes=100-", "If-Range": known})
        assert answer.status_code == status
        assert answer.content == (whole.content[100:] if status == 206 else whole.content)


def test_unchanged_file_is_304(world: World, get: Get) -> None:
    path = world.file_path(10426)
    whole = get(path)
    for header, value in (
        ("If-None-Match", whole.headers["ETag"]),
        ("If-Modified-Since", whole.headers["Last-Modified"]),
    ):
        answer = get(path, headers={header: value})
        assert (answer.status_code, answer.content) == (304, b"")
    assert get(path, headers={"If-None-Match": '"another"'}).status_code == 200
    assert get(path, headers={"If-Modified-Since": "Fri, 29 Jun 2018 04:00:00 GMT"}).status_code == 200


def test_other_configuration_has_neither_ranges_nor_etags(world: World, client: requests.Session) -> None:
    with DemoServer(world, ranges=False, etags=False) as server:
        url = server.neurovault_url + world.file_path(10426)
        answer = client.get(url, headers={"Range": "bytes=5-9", "If-None-Match": "*"}, timeout=PATIENCE_S)
        assert answer.status_code == 200
        assert answer.content == world.image_bytes(10426)
        assert answer.headers["Content-Encoding"] == "utf-8"
        assert answer.headers["Content-Disposition"] == 'inline; filename="left_vs_right_button_press.nii.gz"'
        assert not {"ETag", "Accept-Ranges"} & set(answer.headers)
        since = {"If-Modified-Since": answer.headers["Last-Modified"]}
        unchanged = client.get(url, headers=since, timeout=PATIENCE_S)
        assert unchanged.status_code == 304
        assert int(unchanged.headers["Content-Length"]) == len(answer.content)
        assert client.get(url, timeout=PATIENCE_S).status_code == 200  # the connection is still in step


def test_head_has_the_headers_without_the_body(world: World, server: DemoServer, client: requests.Session) -> None:
    for path in (world.file_path(10426), "/api/images/10426/"):
        url = server.neurovault_url + path
        plain: Any = {"headers": {"Accept-Encoding": "identity"}, "timeout": PATIENCE_S}
        head, got = client.head(url, **plain), client.get(url, **plain)
        assert head.content == b""
        assert head.headers["Content-Length"] == got.headers["Content-Length"]


# Neurosynth


def test_every_term_is_decoded_with_the_shape_of_real_correlations(decode: Decode) -> None:
    data = decode(9034).json()["data"]
    assert sorted(data) == ["comments", "id", "image", "neurovault_id", "reference", "url", "values"]
    assert (data["neurovault_id"], data["reference"]) == (9034, "terms_20k")
    assert tuple(data["values"]) == vocabulary()
    assert len(vocabulary()) == 3228
    assert {"001", "05"} < set(vocabulary())
    sizes = np.abs(list(data["values"].values()))
    assert 0.09 < np.median(sizes) < 0.11
    assert 0.27 < np.percentile(sizes, 99) < 0.33
    assert 0.45 < np.mean(np.array(list(data["values"].values())) < 0) < 0.55
    assert all(value == round(value, 3) for value in data["values"].values())


def test_decoding_differs_between_images_and_knows_what_a_record_says_of_itself() -> None:
    assert decode_values(1) != decode_values(2)
    assert decode_values(1, "Reward > nothing")["reward"] >= 0.2
    assert decode_values(1)["zone"] == decode_values(1, "Reward > nothing")["zone"]


def test_image_308_has_the_real_twenty_strongest_terms(world: World) -> None:
    words = world.words(308)
    assert words is not None
    strongest = sorted(words, key=lambda term: -abs(words[term]))[:20]
    assert strongest[:3] == ["premotor", "motor", "movements"]
    assert words["posterior cingulate"] == -0.307
    assert "medial" in strongest


def test_neurosynth_refuses_lastingly_what_it_cannot_decode(world: World, decode: Decode) -> None:
    world.edit_image(9034, file_size=4_000_001)
    world.edit_image(9035, file="/media/images/555/surface.func.gii")
    world.make_private(1197, "ABCDEFGH")
    for image_id, status in ((9034, 413), (9035, 415), (14227, 404), (16256, 404)):
        answer = decode(image_id)
        assert answer.status_code == status
        assert answer.json()["status"] == status
        assert "error" in answer.json()["data"]


def test_neurosynth_says_nothing_of_an_unknown_image(
    server: DemoServer, client: requests.Session, decode: Decode
) -> None:
    assert (decode(999999).status_code, decode(999999).json()) == (200, {"data": {}})
    without_id = client.get(f"{server.neurosynth_url}/api/decode/", timeout=PATIENCE_S)
    assert without_id.json() == {"data": {}}
    assert client.get(f"{server.neurosynth_url}/api/images/9034/", timeout=PATIENCE_S).status_code == 404


def test_words_can_be_decided(world: World, decode: Decode) -> None:
    world.set_words(9034, {"pain": 0.5, "true": -0.1})
    world.set_words(9035, None)
    world.set_words(9036, 415)
    assert decode(9034).json()["data"]["values"] == {"pain": 0.5, "true": -0.1}
    assert world.words(9034) == {"pain": 0.5, "true": -0.1}
    assert decode(9035).json() == {"data": {}}
    assert world.words(9035) is None
    assert decode(9036).status_code == 415
