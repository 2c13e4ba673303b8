"""The data sets that `config.data.source` names, in words: how their files are called, and where they are to be had."""

PATTERNS = {
    "lits": "volume-N.nii[.gz] with segmentation-N.nii[.gz], at any depth",
    "decathlon": "dataset.json with imagesTr/NAME.nii[.gz] and labelsTr/NAME.nii[.gz] beside it, as in Task03_Liver "
    "and Task01_BrainTumour",
    "ircadb": "3Dircadb1.N/PATIENT_DICOM and 3Dircadb1.N/MASKS_DICOM, at any depth",
    "brats": "CASE_{t1,t1ce,t2,flair,seg}.nii[.gz], since 2023 CASE-{t1n,t1c,t2w,t2f,seg}.nii[.gz], or in a folder "
    "called as the case {t1,t1ce,t2,flair,seg}.nii[.gz]; a folder a case, at any depth",
    "custom": "dataset.json with images/NAME.nii[.gz] and labels/NAME.nii[.gz] beside it (or imagesTr/ and labelsTr/; "
    "a file a channel is NAME_0000.nii.gz, NAME_0001.nii.gz)",
}
HOW_TO_GET = {
    "lits": "LiTS is free after registration at https://competitions.codalab.org/competitions/17094; the same cases "
    "are in Task03_Liver of the Medical Segmentation Decathlon (--config.data.source=decathlon)",
    "decathlon": "The Medical Segmentation Decathlon is free at http://medicaldecathlon.com",
    "ircadb": "3DIRCADb is free at https://www.ircad.fr/research/data-sets/liver-segmentation-3d-ircadb-01",
    "brats": "BraTS is free after registration at https://www.med.upenn.edu/sbia/brats2018/registration.html or, for "
    "later years, at https://www.synapse.org/brats",
    "custom": 'dataset.json is, for one CT channel and one structure, {"modality": {"0": "CT"}, "labels": '
    '{"0": "background", "1": "structure"}}',
}
