// Types of what the server sends and of what the modules pass to each other. No code.

/** @typedef {[number, number, number]} Triple */

/**
 * @typedef {object} LabelClass
 * @property {number} value value in label files
 * @property {string} name
 * @property {string} colour `#rrggbb`
 */

/**
 * @typedef {object} Session
 * @property {string} experiment
 * @property {number} round
 * @property {number[]} rounds
 * @property {string | null} reviewer
 * @property {string[]} reviewers
 * @property {LabelClass[]} classes without the background
 * @property {number} background
 * @property {number | null} ignore
 * @property {string[]} lesions names of the classes that are lesions
 * @property {{name: string, classes: string[]}[]} regions
 * @property {{name: string, kind: string}[]} modalities
 * @property {string[]} reasons reasons of a rejection to choose from
 * @property {boolean} sites
 * @property {string} consensus
 * @property {string} version
 */

/**
 * @typedef {object} Decision
 * @property {string} action
 * @property {string} reviewer
 * @property {string} date
 * @property {string} reason
 */

/**
 * @typedef {object} ClassVolume
 * @property {string} class
 * @property {number} ml
 * @property {number | null} low_ml
 * @property {number | null} high_ml
 * @property {boolean} unusual
 */

/**
 * @typedef {object} QueueCase
 * @property {string} case_id
 * @property {string | null} site
 * @property {string | null} group
 * @property {number | null} predicted_dice
 * @property {number | null} low
 * @property {number | null} high
 * @property {string} verdict automatic verdict
 * @property {string} verdict_reason
 * @property {string} status
 * @property {Decision | null} decision
 * @property {ClassVolume[]} volumes
 * @property {number | null} dice_previous
 * @property {string[]} opened_by
 * @property {string[]} reviewers
 * @property {string} sha256
 */

/**
 * @typedef {object} Counts
 * @property {number} undecided
 * @property {number} accepted
 * @property {number} rejected
 * @property {number} corrected
 * @property {number} total
 */

/** @typedef {{round: number, cases: QueueCase[], counts: Counts}} Queue */

/** @typedef {{mm: Triple, class: string, weight: number}} Place */

/**
 * @typedef {object} Component
 * @property {number} number
 * @property {string} class
 * @property {number | null} probability
 * @property {boolean} kept
 * @property {number} ml
 * @property {Triple} centre
 */

/**
 * @typedef {object} Version
 * @property {string} reviewer
 * @property {string} date
 * @property {string} action
 * @property {string} reason
 * @property {string} sha256
 * @property {string | null} file
 */

/**
 * @typedef {object} Layers
 * @property {{modality: string, url: string, window: [number, number] | null}[]} images
 * @property {string} label
 * @property {string | null} previous
 * @property {string | null} weight
 * @property {string | null} disagreement
 * @property {string | null} correction
 * @property {string | null} correction_sha256 version of the corrected label
 */

/**
 * @typedef {object} CaseDetails
 * @property {string} case_id
 * @property {number} round
 * @property {string} sha256
 * @property {Layers} layers
 * @property {Place[]} places
 * @property {Component[]} components
 * @property {Version[]} versions
 * @property {Decision | null} decision
 * @property {string[]} notes
 */

/** @typedef {{case: QueueCase, messages: string[]}} Saved */

/**
 * @typedef {object} Agreement
 * @property {{case_id: string, readers: string[], dice: Record<string, number | null>, verdicts: string[], agree: boolean}[]} pairs
 * @property {{readers: string[], cases: number, kappa: number | null}[]} kappa
 * @property {{case_id: string, action: string | null, by: string | null}[]} consensus
 */

/**
 * @typedef {Uint8Array | Int8Array | Int16Array | Uint16Array | Int32Array | Uint32Array | Float32Array
 *   | Float64Array} Voxels
 */

/**
 * @typedef {object} Volume
 * @property {Voxels} data in the order of the file
 * @property {Triple} dims
 * @property {Triple} spacing mm
 * @property {number[][]} affine voxel to world (mm), 3 rows of 4
 * @property {number} slope
 * @property {number} intercept
 * @property {Uint8Array} header bytes of the file before the voxels
 */

/** @typedef {{dims: Triple, spacing: Triple}} Grid */

/**
 * @typedef {object} Plane
 * @property {"axial" | "coronal" | "sagittal"} name
 * @property {number} across voxel axis that is perpendicular to the plane
 * @property {number} u voxel axis from left to right on the screen
 * @property {number} v voxel axis from top to bottom on the screen
 * @property {boolean} flipU whether the index decreases from left to right
 * @property {boolean} flipV whether the index decreases from top to bottom
 * @property {[string, string, string, string]} letters left, right, top and bottom of the screen
 */

/**
 * @typedef {object} Change
 * @property {Uint32Array} indices
 * @property {Uint8Array} before
 * @property {Uint8Array} after
 */

export {};
