"""Tags, UIDs and value representations of the DICOM standard, each defined once.

Tags (PS3.6) are numbers ``0xggggeeee`` and are named like their keywords. UIDs are those of PS3.6 annex A. Keywords
that are known only at run time are looked up by :mod:`icf_utils.dicom.values`.
"""

from __future__ import annotations

# -- tags of the file meta information (group 0002, PS3.10 section 7.1)
FILE_META_INFORMATION_GROUP_LENGTH = 0x00020000
FILE_META_INFORMATION_VERSION = 0x00020001
MEDIA_STORAGE_SOP_CLASS_UID = 0x00020002
MEDIA_STORAGE_SOP_INSTANCE_UID = 0x00020003
TRANSFER_SYNTAX_UID = 0x00020010
IMPLEMENTATION_CLASS_UID = 0x00020012

# -- tags of the data set
SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
STUDY_DATE = 0x00080020
STUDY_TIME = 0x00080030
ACCESSION_NUMBER = 0x00080050
STUDY_DESCRIPTION = 0x00081030
PATIENT_NAME = 0x00100010
PATIENT_ID = 0x00100020
ADDITIONAL_PATIENT_HISTORY = 0x001021B0
PATIENT_COMMENTS = 0x00104000
ECHO_TIME = 0x00180081
INVERSION_TIME = 0x00180082
INVERSION_TIMES = 0x00189079
EFFECTIVE_ECHO_TIME = 0x00189082
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
SERIES_NUMBER = 0x00200011
INSTANCE_NUMBER = 0x00200013
STUDY_COMMENTS = 0x00324000
SHARED_FUNCTIONAL_GROUPS_SEQUENCE = 0x52009229
PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE = 0x52009230
FLOAT_PIXEL_DATA = 0x7FE00008
DOUBLE_FLOAT_PIXEL_DATA = 0x7FE00009
PIXEL_DATA = 0x7FE00010

# -- tags of items and delimiters (PS3.5 section 7.5), and the length that means "up to the delimiter"
ITEM = 0xFFFEE000
ITEM_DELIMITATION_ITEM = 0xFFFEE00D
SEQUENCE_DELIMITATION_ITEM = 0xFFFEE0DD
UNDEFINED_LENGTH = 0xFFFFFFFF

# -- transfer syntaxes (PS3.5 annex A)
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPIP_REFERENCED_DEFLATE = "1.2.840.10008.1.2.4.95"

#: Transfer syntaxes whose data set is one deflate stream.
DEFLATED_TRANSFER_SYNTAXES = frozenset({DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, JPIP_REFERENCED_DEFLATE})

# -- the application context of DICOM (PS3.7 annex A)
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

# -- SOP classes
#: What the UIDs of the storage SOP classes begin with (PS3.4 annex B.5).
STORAGE_SOP_CLASSES = "1.2.840.10008.5.1.4.1.1."
VERIFICATION_SOP_CLASS = "1.2.840.10008.1.1"
STORAGE_COMMITMENT_PUSH_MODEL = "1.2.840.10008.1.20.1"
MEDIA_STORAGE_DIRECTORY_STORAGE = "1.2.840.10008.1.3.10"

# -- the one instance of a SOP class that has only one (PS3.4 section J.3.5)
STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"

# -- value representations (PS3.5 table 6.2-1)

#: In explicit VR, their length takes four bytes, after two reserved bytes (PS3.5 table 7.1-1).
LONG_HEADER_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})

#: In explicit VR, their length takes two bytes (PS3.5 table 7.1-2).
SHORT_HEADER_VRS = frozenset("AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())  # noqa: SIM905

#: Their value field is text.
TEXT_VRS = frozenset("AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT".split())  # noqa: SIM905

#: Text that SpecificCharacterSet applies to.
CHARSET_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})

#: Text with one value only, in which a backslash is an ordinary character.
SINGLE_VALUE_VRS = frozenset({"LT", "ST", "UR", "UT"})

#: Their value field is bytes without a plain form.
BINARY_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
