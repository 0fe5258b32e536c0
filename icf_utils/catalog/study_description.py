"""What a study says of itself in ``STUDY/icf.toml``, for people and for programs that index data. Pure but for loading.

The texts reach datalad-catalog's record fields, a description by schema.org in the first page (JSON-LD),
``datacite.json`` (DataCite Metadata Schema 4.5), and citations as BibTeX and RIS.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from icf_utils.catalog.index_link import has_index_page
from icf_utils.settings import Author, CatalogSettings, StudySettings, load_study_settings
from icf_utils.store.layout import Study

#: Files of a catalog that exist only if the study describes itself.
DATACITE, BIBTEX, RIS = CITATIONS = "datacite.json", "citation.bib", "citation.ris"


@dataclass(frozen=True)
class StudyCatalogSettings(CatalogSettings):
    """The settings of a study's catalog: the store's, with what the study says of itself.

    ``in_index``: the store has a page of all studies, to which the study's page links.
    """

    study: StudySettings = field(default_factory=StudySettings)
    in_index: bool = False


def study_catalog(study: Study, settings: CatalogSettings) -> StudyCatalogSettings:
    """Add what ``STUDY/icf.toml`` says. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    given = load_study_settings(study.folder)
    values = asdict(settings)
    values.pop("study", None)
    values.pop("in_index", None)
    values |= {name: text for name in ("name", "description", "logo") if (text := getattr(given, name))}
    values["in_index"] = has_index_page(study.root)
    return StudyCatalogSettings(**values, study=given)


def study_settings(settings: CatalogSettings) -> StudySettings:
    """What the study says of itself; nothing if the settings are those of a store."""
    return settings.study if isinstance(settings, StudyCatalogSettings) else StudySettings()


def record_fields(study: StudySettings) -> dict[str, Any]:
    """The fields of datalad-catalog's record; those without a value are left out."""
    # the schema requires a person's names; of an office, there are none
    contact = {"givenName": "", "familyName": "", "name": study.contact, "email": study.contact}
    found: dict[str, Any] = {
        "doi": _doi_url(study.doi),
        "license": {"name": study.license, **({"url": study.license_url} if study.license_url else {})},
        "funding": [{"name": name} for name in study.funding],
        "publications": [
            {"title": one.title, "doi": _doi_url(one.doi), "authors": [{"name": name} for name in one.authors]}
            for one in study.publications
        ],
        "access_request_contact": contact if "@" in study.contact else {},
        "access_request_url": study.access_url,
    }
    if not study.license:
        del found["license"]
    return {key: value for key, value in found.items() if value}


def record_author(author: Author) -> dict[str, Any]:
    """An author as datalad-catalog's record has it."""
    orcid = {"identifiers": [{"type": "ORCID", "identifier": author.orcid}]} if author.orcid else {}
    return {"name": author.name, **({"email": author.email} if author.email else {}), **orcid}


def _doi_url(doi: str) -> str:
    return doi if not doi or doi.startswith("https://") else f"https://doi.org/{doi.removeprefix('doi:')}"


def json_ld(name: str, description: str, study: StudySettings) -> dict[str, Any]:
    """The study as a ``Dataset`` of schema.org."""
    found: dict[str, Any] = {
        "@context": "https://schema.org/",
        "@type": "Dataset",
        "name": name,
        "description": description,
        "keywords": list(study.keywords),
        "identifier": _doi_url(study.doi),
        "license": study.license_url or study.license,
        "creator": [_person(author) for author in study.authors],
        "funder": [{"@type": "Organization", "name": one} for one in study.funding],
        "citation": [_doi_url(one.doi) or one.title for one in study.publications],
        "conditionsOfAccess": study.access,
    }
    return {key: value for key, value in found.items() if value}


def _person(author: Author) -> dict[str, Any]:
    found = {
        "@type": "Person",
        "name": author.name,
        "@id": f"https://orcid.org/{author.orcid}" if author.orcid else "",
        "affiliation": {"@type": "Organization", "name": author.affiliation} if author.affiliation else "",
    }
    return {key: value for key, value in found.items() if value}


def citation_files(identifier: str, name: str, description: str, study: StudySettings, year: str) -> dict[str, bytes]:
    """``datacite.json``, BibTeX and RIS; nothing without authors. ``year`` is that of the newest visit, if known."""
    if not study.authors:
        return {}
    year = study.year or year
    datacite = json.dumps(_datacite(name, description, study, year), ensure_ascii=False, indent=1)
    files = {DATACITE: datacite + "\n", BIBTEX: bibtex(identifier, name, study, year), RIS: ris(name, study, year)}
    return {path: text.encode("utf-8", "backslashreplace") for path, text in files.items()}


def _datacite(name: str, description: str, study: StudySettings, year: str) -> dict[str, Any]:
    creators = [
        {
            "name": author.name,
            "nameType": "Personal",
            **({"affiliation": [{"name": author.affiliation}]} if author.affiliation else {}),
            **({"nameIdentifiers": [_orcid(author.orcid)]} if author.orcid else {}),
        }
        for author in study.authors
    ]
    found: dict[str, Any] = {
        "doi": study.doi,
        "titles": [{"title": name}],
        "creators": creators,
        "publisher": {"name": study.publisher} if study.publisher else "",
        "publicationYear": year,
        "types": {"resourceTypeGeneral": "Dataset", "resourceType": "DICOM images"},
        "descriptions": [{"description": description, "descriptionType": "Abstract"}],
        "subjects": [{"subject": word} for word in study.keywords],
        "rightsList": [{"rights": study.license, "rightsUri": study.license_url}] if study.license else [],
        "fundingReferences": [{"funderName": one} for one in study.funding],
        "schemaVersion": "http://datacite.org/schema/kernel-4",
    }
    return {key: value for key, value in found.items() if value}


def _orcid(orcid: str) -> dict[str, str]:
    uri = f"https://orcid.org/{orcid}"
    return {"nameIdentifier": uri, "nameIdentifierScheme": "ORCID", "schemeUri": "https://orcid.org"}


def bibtex(identifier: str, name: str, study: StudySettings, year: str) -> str:
    """The study as an entry of BibTeX."""
    fields = {
        "title": f"{{{_tex(name)}}}",
        "author": " and ".join(_tex(author.name) for author in study.authors),
        "year": year,
        "publisher": _tex(study.publisher),
        "doi": study.doi,
    }
    lines = ",\n".join(f"  {key} = {{{value}}}" for key, value in fields.items() if value)
    return f"@misc{{{identifier},\n{lines}\n}}\n"


def _tex(text: str) -> str:
    escapes = {"\\": r"\textbackslash{}", **{char: f"\\{char}" for char in "&%$#_{}"}}
    return "".join(escapes.get(char, char) for char in text)


def ris(name: str, study: StudySettings, year: str) -> str:
    """The study as a record of RIS."""
    lines = [("TY", "DATA"), ("TI", name), *(("AU", author.name) for author in study.authors)]
    lines += [("PY", year), ("PB", study.publisher), ("DO", study.doi), *(("KW", word) for word in study.keywords)]
    text = "".join(f"{tag}  - {' '.join(value.split())}\r\n" for tag, value in lines if value)
    return f"{text}ER  - \r\n"
