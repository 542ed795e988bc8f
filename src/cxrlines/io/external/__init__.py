"""External data sets as their authors distribute them: NIH ChestX-ray14, PadChest, VinBigData, CheXpert."""
