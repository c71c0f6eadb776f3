"""From the public layouts of Quick, Draw!, COCO-Stuff and SketchyCOCO to prepared sets."""
