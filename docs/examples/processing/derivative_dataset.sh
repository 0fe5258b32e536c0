#!/bin/sh
# Make a DataLad dataset of what a processing made of a visit. The visit's own dataset is its subdataset sourcedata/, and
# provenance.json names the archive, the program and the versions.
#
# Call: derivative_dataset.sh STORE STUDY VISIT PROCESSING FOLDER
# STORE is the store's address (https://... or file:///...). Needs DataLad with datalad-next, git-annex and icf-utils.
set -eu
store=${1%/} study=$2 visit=$3 name=$4 folder=$5

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
icf-utils retrieve -q -o "$store" "$study/$visit" --processing "$name" -d "$work"

datalad create -c text2git "$folder"
tar -xf "$work/$study/${visit}_${name}_output.tar" -C "$folder" --strip-components 2 "${study}_${visit}_$name/OUTPUT"
cp "$work/$study/${visit}_${name}_provenance.json" "$folder/provenance.json"
place="$store/$study/${visit}_{{annex_key}}"
datalad clone -d "$folder" \
    "datalad-annex::?type=external&externaltype=uncurl&encryption=none&url=$place" "$folder/sourcedata"
datalad save -d "$folder" -m "Output of $name"
