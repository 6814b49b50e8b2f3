"""Where each thing is tested that nilearn, the real servers and hostile ones do wrong: a map for readers."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

# A line for each thing, and below it its tests: a file's name without ``test_`` and ``.py``, and how the names of
# tests in it begin, likewise without ``test_``.
MAP = """
== nilearn does
- an interrupted collection stays incomplete; likewise after a 503, image_ids, max_images
    better_than_nilearn: a_collection_interrupted_after_3, a_collection_that_met_a_503,
        a_collection_of_which_one_image
    fetch_neurovault: two_images_and_later_five
- offline opens sockets for words
    better_than_nilearn: offline_with_words_opens_no_socket
    fetch_missing: offline_opens_no_socket
- an empty page, or an image deleted while paging, loops for ever
    better_than_nilearn: paging_ends_at_an_empty_page, paging_ends_when_an_image
    client: an_empty_page_ends, a_server_that_repeats_itself, a_huge_count, an_image_deleted_while_paging
    hostile_answers: a_list_that_brings_ever_new
- one truncated JSON file breaks every call
    better_than_nilearn: one_truncated_json_file
    repair: metadata_is
- reading rewrites metadata, and processes crash
    better_than_nilearn: reading_writes_nothing
    processes: processes_that_read_offline
- an HTML page, an empty and a cut-off file pass for images
    better_than_nilearn: a_page_an_empty_file, a_file_cut_off_on_the_server, what_nilearn_took_for_images
    hostile: nonsense_is_never_taken_for_a_file
    storage: what_is_no_whole_map, damage_is_found
- Retry-After is ignored
    better_than_nilearn: retry_after_is_honoured, a_pause_longer
    http: a_pause_asked_for_in, a_pause_that_cannot
- a bad answer of Neurosynth is stored
    better_than_nilearn: a_bad_answer_of_neurosynth
    neurosynth: a_bad_answer_is_never_stored
    hostile_answers: an_answer_of_neurosynth_that_is_none
- one broken record loses everything behind it
    better_than_nilearn: one_broken_record
    client: only_broken_records
    listing: places_of_broken_records
- a half-made collection folder gives nothing
    better_than_nilearn: a_half_made, a_folder_whose_collection
- a copied cache returns old paths
    better_than_nilearn: a_copied_cache
- values that begin with none become None
    better_than_nilearn: values_that_only_begin
    records: only_whole_placeholders, placeholders_become_none
- one file, and one new connection, at a time
    better_than_nilearn: files_come_in_parallel
    hostile: six_connections_for_files
    http: one_connection_serves
- timeout is ignored for image_ids
    better_than_nilearn: the_timeout_applies
- ids that do not exist are skipped in silence
    better_than_nilearn: ids_that_do_not_exist
- the order changes between calls
    better_than_nilearn: the_order_of_the_result
    fetch_neurovault: the_order_is
- overwrite leaves the collection's record stale
    better_than_nilearn: overwrite_by_image_id
- three processes download 60 of 20 files
    processes: processes_on_one_folder
- ?DOI=, ?name=, ?owner= are trusted to the server
    fetch_neurovault: server_filters_are_sent, an_owner_that_the_server
    select: a_doi_is_found_however
- unordered lists lose rows
    better_than_nilearn: a_list_that_lost_a_row
    sync: quirks_of_the_real_site
    hostile_answers: names_that_clash
- the first thirty are 404, and none behind arrives
    better_than_nilearn: good_images_behind_thirty
- all metadata is parsed at every call
    better_than_nilearn: finding_one_image

== NeuroVault is known to do
- either configuration: with Range and ETag, or without
    storage: a_file_arrives_from_either, without_an_etag
- pages: at most 1000 whatever is asked; next says http and is not to be followed
    client: pages_grow_to_1000, a_page_that_names_a_next_one, next_is_not_followed
    demo_api: pages_hold
- offset past the end is an empty page
    client: behind_a_full_last_page, a_server_that_has_no_page_behind
- links by http on a site by https
    client: a_file_is_fetched_from_our_root
    http: a_redirect_may_lead_to_tls
    hostile_answers: links_by_http
- /api/images/ and /api/collections/ have no order
    sync: quirks_of_the_real_site
    hostile_answers: names_that
- a path without its slash is redirected
    http: a_missing_slash
- filters are ignored, or exact, or an owner unknown is 400
    fetch_neurovault: server_filters_are_sent, an_owner_that_the_server
- DOIs are as typed
    records: equal_dois
    select: a_doi_is_found_however
- 404 is JSON for records and HTML for files and unknown end points
    client: what_does_not_exist, a_record_that_cannot_be_read
    storage: a_refusal_is_not_tried_again
- 403 in JSON is private; other refusals say nothing for good
    client: what_the_api_forbids, any_other_refusal
    hostile: files_that_are_forbidden
- a private image alone is 404
    fetch_missing: private_collections_and_images
    private: a_token_opens_images_too
- a poison row is a 500 for its whole page
    client: only_broken_records, a_record_the_server_cannot_render
    fetch_missing: the_images_of_a_collection_whose
- a broken collection breaks its page of the list
    sync: quirks_of_the_real_site
- tokens open what is private, and any token a public image
    private: a_private_collection_comes, a_token_stays_when, what_has_become_public, a_wrong_token
- no 429 is known, and may come
    http: a_pause_asked_for_in, a_server_that_asks_for_more
- JSON is gzipped in chunks, without a length
    http: answers_are_asked_for_gzipped
    demo_api: json_is_gzipped
- Content-Encoding: utf-8
    storage: the_bytes_are_kept_as_sent
    http: djangos_slip
- Range is ignored, If-Range matches or not, 416
    storage: a_file_replaced_between, a_part_of_another_file, a_range_that_cannot_be_had
    demo_api: ranges_give
- 304 with the whole file's length
    hostile: nonsense_is_never_taken_for_a_file
- file_size is 0 for missing and for empty files
    hostile_answers: a_size_of_zero
- a file cut off on the server has a consistent size
    better_than_nilearn: a_file_cut_off_on_the_server
- names clash, also those of maps in NIDM packs
    hostile_answers: names_that_clash
    extras: all_files_of_one
- a replaced file has a new link
    fetch_missing: a_file_replaced_on_the_server
- modify_date moves without a change of the file
    outdated: a_record_that_was_changed_back
    sync: files_and_what
- image_type may be absent
    records: an_atlas_listed_without_its_type
- labels in place of codes, fields that are not there
    records: real_records_land
    stat_maps: statistic_and_sample
- a pack shares the number space of images
    hostile_answers: names_that_clash
- number_of_images counts packs
    listing: a_list_counts_as_read_once_its_packs
- tags may come or not, url is a page
    hostile_answers: links_by_http
- free metadata is flat, of any key and type
    records: free_form_fields, a_free_form_field_named_like
    fetch: the_whole_record_comes
    hostile: odd_records
- unset is null, "" or "None"
    records: placeholders_become_none
    stat_maps: a_placeholder_is_null
- dates have the server's offset
    records: the_modify_date_is_read_in_utc, a_value_that_does_not_fit
- four dimensions, another field of view
    hostile_answers: a_map_of_four_dimensions
- NIDM packs: collection is a number, links are elsewhere
    client: packs_come_as
    records: a_pack_gives_one_row
    extras: an_atlas_names_its_labels
- gender was the name of sex
    records: gender_until_2024

== Neurosynth is known to do
- every term, signed; the reference set is kept
    neurosynth: every_term_comes
    fetch_words: terms_come_as_a_dense
- terms are strings, whatever they look like
    hostile_answers: terms_of_any_spelling
- 200 without values is no success
    neurosynth: whole_json_without_values, an_unknown_image
- 404, 413, 415 last
    neurosynth: a_lasting_refusal
    fetch_words: terms_that_neurosynth_has_not
- 5xx, pages, cut-off JSON and NaN pass
    neurosynth: trouble_is_tried_again, a_bad_answer_is_never_stored
- large files, surfaces and atlases are not asked about
    neurosynth: each_first_decode, what_it_would_refuse
- two requests at a time, each of which may take long
    neurosynth: it_is_asked_over_two, it_is_waited_for_longer
- the older form is read
    neurosynth: the_older_form

== A hostile server may do
- a redirect loop, to another host, to file://
    hostile_answers: a_redirect_in_a_circle
    http: a_redirect_to_anywhere_else, redirects_without_end
    extras: a_redirect_to_another_host
- a file link to another host or 169.254.169.254, in any disguise
    hostile: odd_links_cost
    client: a_link_to_anywhere_else
    http: a_link_leads
    extras: a_link_to_anywhere_else
- a decompression bomb, of members, padding or empty blocks too
    hostile: a_bomb_is_refused
    storage: a_bomb_is_not_unpacked, what_unpacks_to_nothing, a_header_that_declares_more,
        proving_a_large_map
    http: gzip_that_unpacks_to_nothing, json_that_unpacks
    extras: an_archive_is_proven
- a 2 GB JSON
    http: json_that_announces_two_gigabytes, json_without_end
    hostile_answers: what_never_ends
- an endless body, head, chunk, trailer; one byte at a time
    hostile_answers: what_never_ends
    http: a_body_that_never_comes, a_body_that_drips, a_head_that_drips
    storage: a_file_that_never_ends, a_file_larger_than_any, what_is_no_map_takes_no_room
    hostile: a_transfer_that_drips
- an id with ../, null, a float, true, beyond a column
    hostile_answers: an_id_is_a_number, a_collections_record_of_another_id
    records: a_record_without_a_usable_id
    client: a_record_without_an_id
- ids as strings
    hostile_answers: an_id_is_a_number
    client: an_id_written_as_text
    records: an_id_may_come
- another collection_id than asked for, one image in two collections
    hostile_answers: records_that_name_another_collection, an_image_that_two_collections
- 10,000 extra keys; keys with control characters, or that differ in case alone
    hostile: odd_records_cost_no_file
    hostile_answers: what_odd_records_leave
    cli: what_uploaders_typed
- NaN and Infinity
    client: a_record_that_is_no_json, lists_of_nothing_but_bad, a_record_that_cannot_be_read
    records: what_is_not_strict_json
    neurosynth: trouble_is
- duplicate keys
    hostile: duplicate_keys
    hostile_answers: terms_of_any_spelling
- lone surrogates
    records: lone_surrogates
    hostile: odd_records_cost_no_file
- deep JSON, long numbers, long texts, a megabyte of blanks
    hostile: deep_json_is_kept
    hostile_answers: deep_json_behind, what_odd_records_leave, a_megabyte_of_white
- a count or results of another kind
    client: a_page_of_another_shape, json_that_is_no_page
    hostile: no_json_ends
- damaged HTTP of any kind
    http: a_damaged_answer, an_answer_that_is_hardly_http
- a wrong Content-Length
    storage: what_may_be_right_next_time
    http: what_may_pass_is_tried, an_answer_that_is_hardly_http
    extras: a_length_that_cannot_be
- a body that changes between resume attempts
    storage: parts_of_different_files, a_file_replaced_between, a_part_of_another_file, a_part_that_was_not
- a firewall's 403 page
    hostile: a_firewall_is_called_so, a_firewall_before_the_files
    hostile_answers: a_firewall_before_neurosynth
    http: a_page_that_forbids, a_challenge_page
- a Retry-After of any kind
    http: a_pause_that_cannot_be_read, a_server_that_asks_for_more, a_server_that_asks_for_one_pause,
        a_date_that_is_over
- headers, dims and offsets of no map; either NIfTI; none gzipped
    storage: what_is_no_whole_map, a_second_nifti_header, no_header_does_more, a_file_served_as_announced
    hostile: files_in_both_nifti_versions
- a map too large to resample
    resample: a_map_of_more_voxels, an_affine_that_leads_nowhere
- a size that no disk has
    dry_run: a_size_that_no_file_has
    storage: no_size_is_believed
- a full disk
    hostile: a_full_disk_ends
    storage: a_full_disk_is_said
- XML and archives
    xml: (all of it)
    extras: what_is_no_whole_file, no_bytes_do_more

== Security
- no pickle, eval, shell
    package: what_one_module_answers_for
    security: nothing_runs_what, no_option_opens
- TLS is verified
    security: no_setting_turns, an_institutes_own, certificates_that_are_not_there
- tokens are in no file
    security: a_token_is_in_no_file
    private: the_token_is_in_one_table, a_link_that_leads_elsewhere
    export: tokens_are_never
    snapshot: no_byte_of_a_token
- SQL is fenced
    queries: (all of it)
- files have the umask's rights, and locks a group's
    security: files_have_the_rights
- cookies are not kept
    http: cookies_are_not_kept
- what a server says steers no terminal
    cli: what_uploaders_typed
    hostile: odd_links_cost
"""


@cache
def names_in(file: str) -> list[str]:
    tree = ast.parse((Path(__file__).parent / f"test_{file}.py").read_text(encoding="utf-8"))
    return [node.name.removeprefix("test_") for node in tree.body if isinstance(node, ast.FunctionDef)]


def things() -> dict[str, list[tuple[str, str]]]:
    """Return file and beginning of each test, for each thing."""
    found = {}
    for thing in re.split(r"^- ", MAP, flags=re.MULTILINE)[1:]:
        title, _, places = re.sub(r"^==.*", "", thing, flags=re.MULTILINE).partition("\n")
        places = re.sub(r"\n {8,}", " ", places)  # a list that goes on
        listed = (place.partition(":") for place in places.split("\n") if place.strip())
        found[title] = [(file.strip(), name.strip()) for file, _, names in listed for name in names.split(",")]
    return found


@pytest.mark.parametrize("thing", things())
def test_what_is_said_to_be_tested_is(thing: str) -> None:
    places = things()[thing]
    assert places
    for file, start in places:
        assert start == "(all of it)" or any(name.startswith(start) for name in names_in(file)), (file, start)
    assert all(names_in(file) for file, _ in places)
