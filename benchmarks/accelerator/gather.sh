#!/usr/bin/env bash
# What a bare machine with Python 3.12, JAX on CUDA, PyTorch and timm lacks, as a folder to carry there:
# the wheels, and of ../shared one thing at a time. With the repository each is below 64 MiB.
#
#   benchmarks/accelerator/gather.sh FOLDER numbers|camvid|voc
set -euo pipefail
folder=$1 what=$2 shared=$(cd "$(dirname "$0")/../../../shared" && pwd)
rm -rf "$folder"
mkdir -p "$folder/wheels" "$folder/shared/data" "$folder/shared/weights"
# Without dependencies: what is not named here is there already (docs: README.md of benchmarks).
packages="array-record dm-tree docstring-parser googleapis-common-protos grain immutabledict
importlib-resources portpicker segmentation-models-pytorch simple-parsing tensorflow-datasets
tensorflow-metadata termcolor toml"
platforms=$(printf -- '--platform manylinux%s_x86_64 ' _2_28 _2_27 _2_17 2014 1)
# shellcheck disable=SC2086  # words
python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    $platforms -d "$folder/wheels" $packages
python3 -m pip wheel -q --no-deps -w "$folder/wheels" promise # pure Python, published without a wheel
case $what in
numbers) cp -r "$shared/reference" "$folder/shared/" ;;
camvid)
    cp -r "$shared/data/camvid" "$folder/shared/data/"
    cp "$shared/weights/mobilenet_v2_1.0_224_imagenet_ptq_dequant.npz" "$folder/shared/weights/"
    ;;
voc) # the first of each list: as many as there is room for
    from=$shared/data/VOCdevkit/VOC2012 to=$folder/shared/data/VOCdevkit/VOC2012
    mkdir -p "$to"/{ImageSets/Segmentation,JPEGImages,SegmentationClassAug}
    for list in train:300 val:120; do
        file=ImageSets/Segmentation/${list%:*}.txt
        head -n "${list#*:}" "$from/$file" >"$to/$file"
        while read -r id; do
            cp "$from/JPEGImages/$id.jpg" "$to/JPEGImages/"
            cp "$from/SegmentationClassAug/$id.png" "$to/SegmentationClassAug/"
        done <"$to/$file"
    done
    ;;
*) exit 2 ;;
esac
chmod -R u+w "$folder"
du -sb "$folder"
