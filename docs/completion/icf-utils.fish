function __fish_icf-utils_complete
    set -lx _ARGCOMPLETE 1
    set -lx _ARGCOMPLETE_DFS \t
    set -lx _ARGCOMPLETE_IFS \n
    set -lx _ARGCOMPLETE_SUPPRESS_SPACE 1
    set -lx _ARGCOMPLETE_SHELL fish
    set -lx COMP_LINE (commandline -p)
    set -lx COMP_POINT (string length (commandline -cp))
    set -lx COMP_TYPE
    if set -q _ARC_DEBUG
        icf-utils 8>&1 9>&2 1>&9 2>&1
    else
        icf-utils 8>&1 9>&2 1>/dev/null 2>&1
    end
end
complete --command icf-utils -f -a '(__fish_icf-utils_complete)'

function __fish_make_studyvisit_archive_complete
    set -lx _ARGCOMPLETE 1
    set -lx _ARGCOMPLETE_DFS \t
    set -lx _ARGCOMPLETE_IFS \n
    set -lx _ARGCOMPLETE_SUPPRESS_SPACE 1
    set -lx _ARGCOMPLETE_SHELL fish
    set -lx COMP_LINE (commandline -p)
    set -lx COMP_POINT (string length (commandline -cp))
    set -lx COMP_TYPE
    if set -q _ARC_DEBUG
        make_studyvisit_archive 8>&1 9>&2 1>&9 2>&1
    else
        make_studyvisit_archive 8>&1 9>&2 1>/dev/null 2>&1
    end
end
complete --command make_studyvisit_archive -f -a '(__fish_make_studyvisit_archive_complete)'

function __fish_deposit_visit_metadata_complete
    set -lx _ARGCOMPLETE 1
    set -lx _ARGCOMPLETE_DFS \t
    set -lx _ARGCOMPLETE_IFS \n
    set -lx _ARGCOMPLETE_SUPPRESS_SPACE 1
    set -lx _ARGCOMPLETE_SHELL fish
    set -lx COMP_LINE (commandline -p)
    set -lx COMP_POINT (string length (commandline -cp))
    set -lx COMP_TYPE
    if set -q _ARC_DEBUG
        deposit_visit_metadata 8>&1 9>&2 1>&9 2>&1
    else
        deposit_visit_metadata 8>&1 9>&2 1>/dev/null 2>&1
    end
end
complete --command deposit_visit_metadata -f -a '(__fish_deposit_visit_metadata_complete)'

function __fish_deposit_visit_dataset_complete
    set -lx _ARGCOMPLETE 1
    set -lx _ARGCOMPLETE_DFS \t
    set -lx _ARGCOMPLETE_IFS \n
    set -lx _ARGCOMPLETE_SUPPRESS_SPACE 1
    set -lx _ARGCOMPLETE_SHELL fish
    set -lx COMP_LINE (commandline -p)
    set -lx COMP_POINT (string length (commandline -cp))
    set -lx COMP_TYPE
    if set -q _ARC_DEBUG
        deposit_visit_dataset 8>&1 9>&2 1>&9 2>&1
    else
        deposit_visit_dataset 8>&1 9>&2 1>/dev/null 2>&1
    end
end
complete --command deposit_visit_dataset -f -a '(__fish_deposit_visit_dataset_complete)'

function __fish_catalogify_studyvisit_from_meta_complete
    set -lx _ARGCOMPLETE 1
    set -lx _ARGCOMPLETE_DFS \t
    set -lx _ARGCOMPLETE_IFS \n
    set -lx _ARGCOMPLETE_SUPPRESS_SPACE 1
    set -lx _ARGCOMPLETE_SHELL fish
    set -lx COMP_LINE (commandline -p)
    set -lx COMP_POINT (string length (commandline -cp))
    set -lx COMP_TYPE
    if set -q _ARC_DEBUG
        catalogify_studyvisit_from_meta 8>&1 9>&2 1>&9 2>&1
    else
        catalogify_studyvisit_from_meta 8>&1 9>&2 1>/dev/null 2>&1
    end
end
complete --command catalogify_studyvisit_from_meta -f -a '(__fish_catalogify_studyvisit_from_meta_complete)'
