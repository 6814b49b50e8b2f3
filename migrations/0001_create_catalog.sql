-- Every collection, image and word that was ever fetched, as its server gave it, so that
-- what was fetched once is never asked for again and can be asked in SQL.
--
-- Columns carry the API's names and hold values as typed; a value that does not fit its column's
-- type is NULL there and kept in raw_records. No foreign keys and no secondary indexes: DuckDB
-- refuses delete-and-insert under the first and later renames under both.

CREATE TABLE collections (
    collection_id INTEGER PRIMARY KEY,
    name VARCHAR,
    url VARCHAR,
    download_url VARCHAR,
    owner INTEGER,
    contributors VARCHAR,
    owner_name VARCHAR,
    number_of_images INTEGER,
    publication_status VARCHAR,
    doi VARCHAR,
    doi_raw VARCHAR,
    preprint_doi VARCHAR,
    preprint_doi_raw VARCHAR,
    authors VARCHAR,
    paper_url VARCHAR,
    journal_name VARCHAR,
    description VARCHAR,
    full_dataset_url VARCHAR,
    private BOOLEAN,
    add_date TIMESTAMPTZ,
    modify_date TIMESTAMPTZ,
    doi_add_date TIMESTAMPTZ,
    type_of_design VARCHAR,
    number_of_imaging_runs INTEGER,
    number_of_experimental_units INTEGER,
    length_of_runs DOUBLE,
    length_of_blocks DOUBLE,
    length_of_trials VARCHAR,
    optimization BOOLEAN,
    optimization_method VARCHAR,
    subject_age_mean DOUBLE,
    subject_age_min DOUBLE,
    subject_age_max DOUBLE,
    handedness VARCHAR,
    proportion_male_subjects DOUBLE,
    inclusion_exclusion_criteria VARCHAR,
    number_of_rejected_subjects INTEGER,
    group_comparison BOOLEAN,
    group_description VARCHAR,
    scanner_make VARCHAR,
    scanner_model VARCHAR,
    field_strength DOUBLE,
    pulse_sequence VARCHAR,
    parallel_imaging VARCHAR,
    field_of_view DOUBLE,
    matrix_size INTEGER,
    slice_thickness DOUBLE,
    skip_distance DOUBLE,
    acquisition_orientation VARCHAR,
    order_of_acquisition VARCHAR,
    repetition_time DOUBLE,
    echo_time DOUBLE,
    flip_angle DOUBLE,
    software_package VARCHAR,
    software_version VARCHAR,
    order_of_preprocessing_operations VARCHAR,
    quality_control VARCHAR,
    used_b0_unwarping BOOLEAN,
    b0_unwarping_software VARCHAR,
    used_slice_timing_correction BOOLEAN,
    slice_timing_correction_software VARCHAR,
    used_motion_correction BOOLEAN,
    motion_correction_software VARCHAR,
    motion_correction_reference VARCHAR,
    motion_correction_metric VARCHAR,
    motion_correction_interpolation VARCHAR,
    used_motion_susceptibiity_correction BOOLEAN,
    used_intersubject_registration BOOLEAN,
    intersubject_registration_software VARCHAR,
    intersubject_transformation_type VARCHAR,
    nonlinear_transform_type VARCHAR,
    transform_similarity_metric VARCHAR,
    interpolation_method VARCHAR,
    object_image_type VARCHAR,
    functional_coregistered_to_structural BOOLEAN,
    functional_coregistration_method VARCHAR,
    coordinate_space VARCHAR,
    target_template_image VARCHAR,
    target_resolution DOUBLE,
    used_smoothing BOOLEAN,
    smoothing_type VARCHAR,
    smoothing_fwhm DOUBLE,
    resampled_voxel_size DOUBLE,
    intrasubject_model_type VARCHAR,
    intrasubject_estimation_type VARCHAR,
    intrasubject_modeling_software VARCHAR,
    hemodynamic_response_function VARCHAR,
    used_temporal_derivatives BOOLEAN,
    used_dispersion_derivatives BOOLEAN,
    used_motion_regressors BOOLEAN,
    used_reaction_time_regressor BOOLEAN,
    used_orthogonalization BOOLEAN,
    orthogonalization_description VARCHAR,
    used_high_pass_filter BOOLEAN,
    high_pass_filter_method VARCHAR,
    autocorrelation_model VARCHAR,
    group_model_type VARCHAR,
    group_estimation_type VARCHAR,
    group_modeling_software VARCHAR,
    group_inference_type VARCHAR,
    group_model_multilevel VARCHAR,
    group_repeated_measures BOOLEAN,
    group_repeated_measures_method VARCHAR,
    nutbrain_hunger_state VARCHAR,
    nutbrain_food_viewing_conditions VARCHAR,
    nutbrain_food_choice_type VARCHAR,
    nutbrain_taste_conditions VARCHAR,
    nutbrain_odor_conditions VARCHAR,
    communities JSON,
    extra JSON,
    fetched_at TIMESTAMPTZ,
    listed_at TIMESTAMPTZ,
    listed_count INTEGER,
    complete BOOLEAN,
    gone_at TIMESTAMPTZ
);
COMMENT ON TABLE collections IS 'One row per collection, as its owner described it.';
COMMENT ON COLUMN collections.collection_id IS 'NeuroVault''s number of the collection (API: id)';
COMMENT ON COLUMN collections.name IS 'Title of the collection; "...''s temporary collection" marks the ones never described';
COMMENT ON COLUMN collections.url IS 'HTML page of the collection';
COMMENT ON COLUMN collections.download_url IS 'Link that streams the whole collection as one zip';
COMMENT ON COLUMN collections.owner IS 'User id of the owner; 5761 is the robot of Neuroscout, which uploads mostly single-subject maps';
COMMENT ON COLUMN collections.contributors IS 'User names of the contributors, joined by ", "; empty when there are none';
COMMENT ON COLUMN collections.owner_name IS 'User name of the owner';
COMMENT ON COLUMN collections.number_of_images IS 'The server''s count of images; counts NIDM packs too, so it can exceed the images listed';
COMMENT ON COLUMN collections.publication_status IS 'published, submitted, in_preparation or not_intended; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.doi IS 'DOI of the paper, normalised: lower case, trimmed, no prefix; NULL when none was given';
COMMENT ON COLUMN collections.doi_raw IS 'DOI of the paper as the server gave it (API: DOI)';
COMMENT ON COLUMN collections.preprint_doi IS 'DOI of the preprint, normalised as doi is';
COMMENT ON COLUMN collections.preprint_doi_raw IS 'DOI of the preprint as the server gave it (API: preprint_DOI)';
COMMENT ON COLUMN collections.authors IS 'Authors of the paper';
COMMENT ON COLUMN collections.paper_url IS 'Link to the paper';
COMMENT ON COLUMN collections.journal_name IS 'Journal of the paper';
COMMENT ON COLUMN collections.description IS 'Free text about the collection';
COMMENT ON COLUMN collections.full_dataset_url IS 'Where the full data set can be had; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.private IS 'Whether the collection is private, open only by its token';
COMMENT ON COLUMN collections.add_date IS 'When the collection was made on the server';
COMMENT ON COLUMN collections.modify_date IS 'When the collection last changed on the server; moves with any save or delete of its images too';
COMMENT ON COLUMN collections.doi_add_date IS 'When the DOI was entered';
COMMENT ON COLUMN collections.type_of_design IS 'Design of the experiment: blocked, eventrelated, hybridblockevent or other; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.number_of_imaging_runs IS 'Imaging runs acquired; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.number_of_experimental_units IS 'Blocks, trials or other experimental units per imaging run; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.length_of_runs IS 'Length of an imaging run, in seconds; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.length_of_blocks IS 'Length of a block in a blocked design, in seconds; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.length_of_trials IS 'Length of a trial, in seconds, or a word such as "variable"; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.optimization IS 'Whether the design was optimised for efficiency';
COMMENT ON COLUMN collections.optimization_method IS 'How the design was optimised; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.subject_age_mean IS 'Mean age of the subjects, in years; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.subject_age_min IS 'Age of the youngest subject, in years; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.subject_age_max IS 'Age of the oldest subject, in years; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.handedness IS 'Handedness of the subjects: right, left or both; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.proportion_male_subjects IS 'Proportion of male subjects, meant as 0 to 1; percentages and counts occur; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.inclusion_exclusion_criteria IS 'Who was included and excluded; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.number_of_rejected_subjects IS 'Subjects scanned and left out of the analysis; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.group_comparison IS 'Whether groups of subjects were compared';
COMMENT ON COLUMN collections.group_description IS 'The groups that were compared; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.scanner_make IS 'Manufacturer of the scanner; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.scanner_model IS 'Model of the scanner; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.field_strength IS 'Field strength of the scanner, in tesla; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.pulse_sequence IS 'Pulse sequence of the functional images; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.parallel_imaging IS 'Parallel imaging method and its parameters; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.field_of_view IS 'Imaging field of view, in mm; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.matrix_size IS 'Matrix size of the acquisition, in voxels; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.slice_thickness IS 'Distance between slices, gap included, in mm; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.skip_distance IS 'Gap between slices, in mm; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.acquisition_orientation IS 'Orientation of the slices; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.order_of_acquisition IS 'Order of the slices: ascending, descending or interleaved; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.repetition_time IS 'Repetition time, meant in milliseconds; seconds occur; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.echo_time IS 'Echo time, meant in milliseconds; seconds occur; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.flip_angle IS 'Flip angle, in degrees; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.software_package IS 'Software of the analysis, where one package did it all; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.software_version IS 'Version of that software; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.order_of_preprocessing_operations IS 'Preprocessing steps in their order; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.quality_control IS 'Quality control measures; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.used_b0_unwarping IS 'Whether B0 distortions were corrected';
COMMENT ON COLUMN collections.b0_unwarping_software IS 'Software of the distortion correction; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.used_slice_timing_correction IS 'Whether slice timing was corrected';
COMMENT ON COLUMN collections.slice_timing_correction_software IS 'Software of the slice timing correction; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.used_motion_correction IS 'Whether motion was corrected';
COMMENT ON COLUMN collections.motion_correction_software IS 'Software of the motion correction; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.motion_correction_reference IS 'Reference scan of the motion correction; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.motion_correction_metric IS 'Similarity metric of the motion correction; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.motion_correction_interpolation IS 'Interpolation of the motion correction; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.used_motion_susceptibiity_correction IS 'Whether motion-susceptibility interaction was corrected (spelt as the API spells it)';
COMMENT ON COLUMN collections.used_intersubject_registration IS 'Whether subjects were registered to a common space';
COMMENT ON COLUMN collections.intersubject_registration_software IS 'Software of the registration between subjects; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.intersubject_transformation_type IS 'Registration between subjects: linear or nonlinear; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.nonlinear_transform_type IS 'Nonlinear transformation, where one was used; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.transform_similarity_metric IS 'Similarity metric of the registration between subjects; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.interpolation_method IS 'Interpolation of the registration between subjects; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.object_image_type IS 'Image the transformation was found on, such as T1, T2 or EPI; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.functional_coregistered_to_structural IS 'Whether functional images were coregistered to the subject''s structural image';
COMMENT ON COLUMN collections.functional_coregistration_method IS 'Method of that coregistration; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.coordinate_space IS 'Target space: mni, talairach, mni2tal or other; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.target_template_image IS 'Target template of the registration; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.target_resolution IS 'Voxel size of the target template, in mm; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.used_smoothing IS 'Whether images were smoothed';
COMMENT ON COLUMN collections.smoothing_type IS 'Type of smoothing; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.smoothing_fwhm IS 'Full width at half maximum of the smoothing kernel, in mm; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.resampled_voxel_size IS 'Voxel size of the resampled images, in mm; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.intrasubject_model_type IS 'Type of the model within subjects, such as regression; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.intrasubject_estimation_type IS 'Estimation of the model within subjects, such as OLS; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.intrasubject_modeling_software IS 'Software of the model within subjects; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.hemodynamic_response_function IS 'Model of the haemodynamic response; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.used_temporal_derivatives IS 'Whether temporal derivatives were in the model';
COMMENT ON COLUMN collections.used_dispersion_derivatives IS 'Whether dispersion derivatives were in the model';
COMMENT ON COLUMN collections.used_motion_regressors IS 'Whether motion regressors were in the model';
COMMENT ON COLUMN collections.used_reaction_time_regressor IS 'Whether a reaction time regressor was in the model';
COMMENT ON COLUMN collections.used_orthogonalization IS 'Whether regressors were orthogonalised to others';
COMMENT ON COLUMN collections.orthogonalization_description IS 'Which regressors were orthogonalised to which; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.used_high_pass_filter IS 'Whether a high-pass filter was used';
COMMENT ON COLUMN collections.high_pass_filter_method IS 'Method of the high-pass filter; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.autocorrelation_model IS 'Model of the autocorrelation; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.group_model_type IS 'Type of the group model, such as regression; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.group_estimation_type IS 'Estimation of the group model; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.group_modeling_software IS 'Software of the group model; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.group_inference_type IS 'Inference of the group model: randommixedeffects or fixedeffects; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.group_model_multilevel IS 'Levels and assumptions of a model with more than two levels; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.group_repeated_measures IS 'Whether the group model had repeated measures';
COMMENT ON COLUMN collections.group_repeated_measures_method IS 'How repeated measures were modelled; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.nutbrain_hunger_state IS 'Nutrition studies: hunger state of the subjects, I to VI; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.nutbrain_food_viewing_conditions IS 'Nutrition studies: conditions of viewing food; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.nutbrain_food_choice_type IS 'Nutrition studies: type of food choice; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.nutbrain_taste_conditions IS 'Nutrition studies: taste conditions; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.nutbrain_odor_conditions IS 'Nutrition studies: odour conditions; as typed by uploaders, not enforced';
COMMENT ON COLUMN collections.communities IS 'Ids of the communities the collection belongs to, a JSON list of integers';
COMMENT ON COLUMN collections.extra IS 'Fields of the record that the API does not document, a JSON object; NULL when there are none';
COMMENT ON COLUMN collections.fetched_at IS 'When this record was fetched';
COMMENT ON COLUMN collections.listed_at IS 'When the collection''s images were last listed to the end';
COMMENT ON COLUMN collections.listed_count IS 'The server''s count of the collection''s images when it was last listed';
COMMENT ON COLUMN collections.complete IS 'Whether distinct images and known broken records together made listed_count';
COMMENT ON COLUMN collections.gone_at IS 'When a complete list of collections first no longer had it; NULL while it is there or was never looked for';

CREATE TABLE images (
    image_id INTEGER PRIMARY KEY,
    collection_id INTEGER,
    name VARCHAR,
    url VARCHAR,
    file VARCHAR,
    collection VARCHAR,
    file_size BIGINT,
    cognitive_paradigm_cogatlas VARCHAR,
    cognitive_paradigm_cogatlas_id VARCHAR,
    cognitive_contrast_cogatlas VARCHAR,
    cognitive_contrast_cogatlas_id VARCHAR,
    map_type VARCHAR,
    analysis_level VARCHAR,
    description VARCHAR,
    add_date TIMESTAMPTZ,
    modify_date TIMESTAMPTZ,
    is_valid BOOLEAN,
    surface_left_file VARCHAR,
    surface_right_file VARCHAR,
    data_origin VARCHAR,
    target_template_image VARCHAR,
    subject_species VARCHAR,
    figure VARCHAR,
    handedness VARCHAR,
    age DOUBLE,
    sex VARCHAR,
    race VARCHAR,
    ethnicity VARCHAR,
    BMI DOUBLE,
    fat_percentage DOUBLE,
    waist_hip_ratio DOUBLE,
    mean_PDS_score DOUBLE,
    tanner_stage VARCHAR,
    days_since_menstruation DOUBLE,
    hours_since_last_meal DOUBLE,
    bis_bas_score DOUBLE,
    spsrq_score DOUBLE,
    bis11_score DOUBLE,
    thumbnail VARCHAR,
    reduced_representation VARCHAR,
    is_thresholded BOOLEAN,
    perc_bad_voxels DOUBLE,
    not_mni BOOLEAN,
    brain_coverage DOUBLE,
    perc_voxels_outside DOUBLE,
    number_of_subjects INTEGER,
    modality VARCHAR,
    statistic_parameters DOUBLE,
    smoothness_fwhm DOUBLE,
    contrast_definition VARCHAR,
    contrast_definition_cogatlas VARCHAR,
    cognitive_paradigm_description_url VARCHAR,
    cognitive_paradigm_short_description VARCHAR,
    cognitive_paradigm_name VARCHAR,
    image_type VARCHAR,
    label_description_file VARCHAR,
    nidm_results VARCHAR,
    nidm_results_ttl VARCHAR,
    data JSON,
    extra JSON,
    fetched_at TIMESTAMPTZ,
    gone_at TIMESTAMPTZ
);
COMMENT ON TABLE images IS 'One row per image: statistic maps, atlases and maps of NIDM packs.';
COMMENT ON COLUMN images.image_id IS 'NeuroVault''s number of the image (API: id)';
COMMENT ON COLUMN images.collection_id IS 'The collection the image belongs to';
COMMENT ON COLUMN images.name IS 'Name of the image; two images can have the same';
COMMENT ON COLUMN images.url IS 'HTML page of the image';
COMMENT ON COLUMN images.file IS 'Link to the image file; changes when the file is replaced';
COMMENT ON COLUMN images.collection IS 'HTML page of the collection';
COMMENT ON COLUMN images.file_size IS 'Size of the file, in bytes; 0 means unknown, missing on the server or empty';
COMMENT ON COLUMN images.cognitive_paradigm_cogatlas IS 'Name of the task in the Cognitive Atlas; "None / Other" when it is not in there; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.cognitive_paradigm_cogatlas_id IS 'Id of the task in the Cognitive Atlas (trm_... or tsk_...); "None" when it is not in there; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.cognitive_contrast_cogatlas IS 'Name of the contrast in the Cognitive Atlas; HTML entities occur; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.cognitive_contrast_cogatlas_id IS 'Id of the contrast in the Cognitive Atlas (cnt_...); as typed by uploaders, not enforced';
COMMENT ON COLUMN images.map_type IS 'Kind of map as a label ("Z map"), in older dumps a code (T, Z, F, X2, P, IP, M, U, R, Pa, A, V, Other); as typed by uploaders, not enforced';
COMMENT ON COLUMN images.analysis_level IS 'single-subject, group, meta-analysis or other, in older dumps a code (S, G, M, Other); as typed by uploaders, not enforced';
COMMENT ON COLUMN images.description IS 'Free text about the image';
COMMENT ON COLUMN images.add_date IS 'When the image was uploaded';
COMMENT ON COLUMN images.modify_date IS 'When the image last changed on the server; moves with any edit, not only a new file';
COMMENT ON COLUMN images.is_valid IS 'Whether the metadata form passed; says nothing about the file';
COMMENT ON COLUMN images.surface_left_file IS 'Link to the left surface file';
COMMENT ON COLUMN images.surface_right_file IS 'Link to the right surface file';
COMMENT ON COLUMN images.data_origin IS 'volume or surface';
COMMENT ON COLUMN images.target_template_image IS 'Template of the map''s space, such as GenericMNI; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.subject_species IS 'Species of the subjects; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.figure IS 'Figure of the paper that shows the map; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.handedness IS 'Handedness of the subject: L or R; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.age IS 'Age of the subject, in years; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.sex IS 'Sex of the subject: M, F or O (API: gender until 2024); as typed by uploaders, not enforced';
COMMENT ON COLUMN images.race IS 'Race of the subject: W, B, I, A or H; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.ethnicity IS 'Ethnicity of the subject: H or NH; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.BMI IS 'Body mass index of the subject, in kg/m2; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.fat_percentage IS 'Body fat of the subject, in percent; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.waist_hip_ratio IS 'Waist to hip ratio of the subject; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.mean_PDS_score IS 'Mean score on the Pubertal Development Scale; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.tanner_stage IS 'Tanner stage of the subject: I to V; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.days_since_menstruation IS 'Days since the last menstruation; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.hours_since_last_meal IS 'Hours since the last meal; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.bis_bas_score IS 'Score on the Behavioral Inhibition and Activation Scales; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.spsrq_score IS 'Score on the Sensitivity to Punishment and Reward Questionnaire; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.bis11_score IS 'Score on the Barratt Impulsiveness Scale; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.thumbnail IS 'Link to a picture of the map';
COMMENT ON COLUMN images.reduced_representation IS 'Link to a coarse version of the map (.npy), which the server makes for comparisons';
COMMENT ON COLUMN images.is_thresholded IS 'Whether over 85 % of the voxels are zero or NaN: a heuristic, computed at the first upload';
COMMENT ON COLUMN images.perc_bad_voxels IS 'Voxels that are zero or NaN, in percent (0 to 100) of the field of view; from the first upload, may be stale';
COMMENT ON COLUMN images.not_mni IS 'Whether the map seems not to be in MNI space; computed at the first upload, may be stale';
COMMENT ON COLUMN images.brain_coverage IS 'Part of the brain mask the map covers, in percent (0 to 100); from the first upload, may be stale';
COMMENT ON COLUMN images.perc_voxels_outside IS 'Map voxels outside the brain mask, in percent (0 to 100); from the first upload, may be stale';
COMMENT ON COLUMN images.number_of_subjects IS 'Subjects behind the map; 0 means unknown (NIDM maps always have 0); as typed by uploaders, not enforced';
COMMENT ON COLUMN images.modality IS 'Imaging modality, such as fMRI-BOLD; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.statistic_parameters IS 'Parameter of the statistic, typically degrees of freedom, also seen on Z maps; not a sample size; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.smoothness_fwhm IS 'Smoothness of the map as full width at half maximum, in mm; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.contrast_definition IS 'Contrast of the map in the uploader''s words; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.contrast_definition_cogatlas IS 'Contrast of the map in the Cognitive Atlas: an older field, mostly empty; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.cognitive_paradigm_description_url IS 'Link to a description of the task; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.cognitive_paradigm_short_description IS 'Short description of the task; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.cognitive_paradigm_name IS 'Name of the task in the uploader''s words; as typed by uploaders, not enforced';
COMMENT ON COLUMN images.image_type IS 'statistic_map, atlas or "NIDM results statistic map"; NULL where the server left it out';
COMMENT ON COLUMN images.label_description_file IS 'Atlases: link to the file that names the labels';
COMMENT ON COLUMN images.nidm_results IS 'NIDM maps: HTML page of the pack the map came in';
COMMENT ON COLUMN images.nidm_results_ttl IS 'NIDM maps: link to the pack''s Turtle file';
COMMENT ON COLUMN images.data IS 'Atlases and NIDM maps: free-form fields, as JSON; those of statistic maps are in extra';
COMMENT ON COLUMN images.extra IS 'Fields of the record that the API does not document, free-form ones too, a JSON object; NULL when there are none';
COMMENT ON COLUMN images.fetched_at IS 'When this record was fetched';
COMMENT ON COLUMN images.gone_at IS 'When the server first no longer had the image; NULL while it has';

CREATE TABLE files (
    image_id INTEGER,
    kind VARCHAR,
    path VARCHAR,
    size BIGINT,
    sha256 VARCHAR,
    etag VARCHAR,
    last_modified VARCHAR,
    downloaded_at TIMESTAMPTZ,
    origin VARCHAR,
    shape INTEGER[],
    voxel_size_mm DOUBLE[],
    dtype VARCHAR,
    state VARCHAR,
    PRIMARY KEY (image_id, kind)
);
COMMENT ON TABLE files IS 'One row per file on this disk, as it was when last proven.';
COMMENT ON COLUMN files.image_id IS 'The image the file belongs to';
COMMENT ON COLUMN files.kind IS 'original (as the server has it) or a file made of it, such as resampled';
COMMENT ON COLUMN files.path IS 'Where the file is, relative to the catalog''s folder';
COMMENT ON COLUMN files.size IS 'Size, in bytes';
COMMENT ON COLUMN files.sha256 IS 'SHA-256 of the bytes, in hexadecimal; NULL until the file was proven';
COMMENT ON COLUMN files.etag IS 'The server''s ETag when the file was downloaded';
COMMENT ON COLUMN files.last_modified IS 'The server''s Last-Modified when the file was downloaded, as sent';
COMMENT ON COLUMN files.downloaded_at IS 'When the file came here';
COMMENT ON COLUMN files.origin IS 'neurovault (downloaded), nilearn (taken over from its cache) or found (taken over from the disk)';
COMMENT ON COLUMN files.shape IS 'Shape of the image, in voxels, from its NIfTI header';
COMMENT ON COLUMN files.voxel_size_mm IS 'Size of a voxel along each axis, in mm, from the NIfTI header';
COMMENT ON COLUMN files.dtype IS 'Type of the stored voxels, from the NIfTI header';
COMMENT ON COLUMN files.state IS 'present (proven), unverified (registered by its size alone) or what is wrong with it';

-- A place in a list can be refused as well as an id, so no key fits: writers delete before they insert.
CREATE TABLE refusals (
    kind VARCHAR,
    id INTEGER,
    position INTEGER,
    status VARCHAR,
    reason VARCHAR,
    modify_date TIMESTAMPTZ,
    seen_at TIMESTAMPTZ
);
COMMENT ON TABLE refusals IS 'One row per id the server lastingly refuses: asked for again after a change, after 7 days or with overwrite.';
COMMENT ON COLUMN refusals.kind IS 'collection, image, words, the kind of a file beside a map, or position: a broken record known only by its place in a list';
COMMENT ON COLUMN refusals.id IS 'The id that was asked for; the collection''s where kind is position';
COMMENT ON COLUMN refusals.position IS 'Place of the broken record in the collection''s list, from 1; NULL for other kinds';
COMMENT ON COLUMN refusals.status IS 'What became of the request, as in a report: not_found, private, broken_on_server, ...';
COMMENT ON COLUMN refusals.reason IS 'What the server said';
COMMENT ON COLUMN refusals.modify_date IS 'The record''s modify_date when the server refused';
COMMENT ON COLUMN refusals.seen_at IS 'When the server last refused';

-- Tokens live here and nowhere else, so that leaving out one table keeps every secret.
CREATE TABLE access (
    collection_id INTEGER PRIMARY KEY,
    token VARCHAR
);
COMMENT ON TABLE access IS 'One row per private collection. Secret: never part of snapshots, exports or reports.';
COMMENT ON COLUMN access.collection_id IS 'The private collection';
COMMENT ON COLUMN access.token IS 'The eight letters that open it';

CREATE TABLE nidm_packs (
    pack_id INTEGER,
    collection_id INTEGER,
    image_id INTEGER
);
COMMENT ON TABLE nidm_packs IS 'One row per image of a NIDM results pack.';
COMMENT ON COLUMN nidm_packs.pack_id IS 'NeuroVault''s number of the pack; shares its number space with images';
COMMENT ON COLUMN nidm_packs.collection_id IS 'The collection the pack belongs to';
COMMENT ON COLUMN nidm_packs.image_id IS 'An image the pack holds';

CREATE TABLE terms (
    term_id INTEGER PRIMARY KEY,
    term VARCHAR
);
COMMENT ON TABLE terms IS 'One row per Neurosynth term.';
COMMENT ON COLUMN terms.term_id IS 'This catalog''s own number of the term; other catalogs number differently';
COMMENT ON COLUMN terms.term IS 'The term; strings such as "001" and "true" are terms too';

-- No primary key: it would triple the size of the largest table. Writers replace an image's rows at once.
CREATE TABLE words (
    image_id INTEGER NOT NULL,
    term_id INTEGER NOT NULL,
    weight DOUBLE NOT NULL
);
COMMENT ON TABLE words IS 'One row per image and Neurosynth term, as the server gave them, zeros included.';
COMMENT ON COLUMN words.image_id IS 'The image that was decoded';
COMMENT ON COLUMN words.term_id IS 'The term';
COMMENT ON COLUMN words.weight IS 'What the decoder of the image''s set of terms gave; Neurosynth: Pearson correlation of the map with the term''s map, -1 to 1: similarity, not probability';

CREATE TABLE words_status (
    image_id INTEGER PRIMARY KEY,
    status VARCHAR,
    reference VARCHAR,
    fetched_at TIMESTAMPTZ
);
COMMENT ON TABLE words_status IS 'One row per image asked of Neurosynth.';
COMMENT ON COLUMN words_status.image_id IS 'The image that was asked for';
COMMENT ON COLUMN words_status.status IS 'What came of it: present';
COMMENT ON COLUMN words_status.reference IS 'The set of terms the image was compared with, such as terms_20k, or the name given with terms of one''s own';
COMMENT ON COLUMN words_status.fetched_at IS 'When the answer came';

-- Apart from the typed columns, so that reading those never drags the wide text along.
CREATE TABLE raw_records (
    kind VARCHAR,
    id INTEGER,
    raw JSON NOT NULL,
    source VARCHAR,
    fetched_at TIMESTAMPTZ,
    PRIMARY KEY (kind, id)
);
COMMENT ON TABLE raw_records IS 'One row per record, as the server gave it.';
COMMENT ON COLUMN raw_records.kind IS 'collection or image';
COMMENT ON COLUMN raw_records.id IS 'Id of the collection or image';
COMMENT ON COLUMN raw_records.raw IS 'The record, written anew with its keys in the order they came';
COMMENT ON COLUMN raw_records.source IS 'api, or sidecar: a metadata file found beside the image';
COMMENT ON COLUMN raw_records.fetched_at IS 'When the record was fetched';

CREATE TABLE record_history (
    kind VARCHAR,
    id INTEGER,
    raw JSON,
    fetched_at TIMESTAMPTZ,
    replaced_at TIMESTAMPTZ
);
COMMENT ON TABLE record_history IS 'One row per former record: what a record said before the server changed it.';
COMMENT ON COLUMN record_history.kind IS 'collection or image';
COMMENT ON COLUMN record_history.id IS 'Id of the collection or image';
COMMENT ON COLUMN record_history.raw IS 'The former record';
COMMENT ON COLUMN record_history.fetched_at IS 'When the former record was fetched';
COMMENT ON COLUMN record_history.replaced_at IS 'When the newer record took its place';

-- The id is text, since Spark refuses Parquet files with a UUID column.
CREATE TABLE fetches (
    fetch_id VARCHAR PRIMARY KEY,
    started_at TIMESTAMPTZ,
    finished_at TIMESTAMPTZ,
    function VARCHAR,
    parameters JSON,
    mode VARCHAR,
    server VARCHAR,
    version VARCHAR,
    requested INTEGER,
    returned INTEGER,
    downloaded INTEGER,
    missing INTEGER,
    bytes BIGINT
);
COMMENT ON TABLE fetches IS 'One row per call that used the network.';
COMMENT ON COLUMN fetches.fetch_id IS 'A UUID as text';
COMMENT ON COLUMN fetches.started_at IS 'When the call began';
COMMENT ON COLUMN fetches.finished_at IS 'When the call ended';
COMMENT ON COLUMN fetches.function IS 'The function that was called';
COMMENT ON COLUMN fetches.parameters IS 'What it was called with, a JSON object; tokens of private collections replaced';
COMMENT ON COLUMN fetches.mode IS 'download_new, overwrite or offline';
COMMENT ON COLUMN fetches.server IS 'Root of the server that was asked';
COMMENT ON COLUMN fetches.version IS 'Version of nvcatalog';
COMMENT ON COLUMN fetches.requested IS 'Ids in the report of the call';
COMMENT ON COLUMN fetches.returned IS 'Images in its answer';
COMMENT ON COLUMN fetches.downloaded IS 'Files downloaded';
COMMENT ON COLUMN fetches.missing IS 'Ids that could not be had';
COMMENT ON COLUMN fetches.bytes IS 'Bytes of files downloaded';

CREATE TABLE outcomes (
    fetch_id VARCHAR,
    kind VARCHAR,
    id INTEGER,
    status VARCHAR,
    reason VARCHAR
);
COMMENT ON TABLE outcomes IS 'One row per id of a call that was not simply here.';
COMMENT ON COLUMN outcomes.fetch_id IS 'The call';
COMMENT ON COLUMN outcomes.kind IS 'collection, image or words';
COMMENT ON COLUMN outcomes.id IS 'The id; NULL for a record known only by its place in a list';
COMMENT ON COLUMN outcomes.status IS 'downloaded, adopted, kept_old, not_found, private, broken_on_server, corrupt_on_server or failed';
COMMENT ON COLUMN outcomes.reason IS 'Why, in words';

CREATE TABLE catalog_info (
    key VARCHAR PRIMARY KEY,
    value VARCHAR
);
COMMENT ON TABLE catalog_info IS 'One row per fact about this catalog: the server it mirrors, when it was made.';
COMMENT ON COLUMN catalog_info.key IS 'Name of the fact';
COMMENT ON COLUMN catalog_info.value IS 'The fact, as text';

CREATE VIEW image_words AS
SELECT w.image_id, t.term, w.weight
FROM words AS w
JOIN terms AS t USING (term_id);
COMMENT ON VIEW image_words IS 'One row per image and Neurosynth term: the long table to ask.';
COMMENT ON COLUMN image_words.image_id IS 'The image that was decoded';
COMMENT ON COLUMN image_words.term IS 'The Neurosynth term';
COMMENT ON COLUMN image_words.weight IS 'What the decoder of the image''s set of terms gave; Neurosynth: Pearson correlation of the map with the term''s map, -1 to 1: similarity, not probability';

-- i.* on purpose: a column that a later migration adds to images is then here too.
CREATE VIEW local_images AS
SELECT i.*, c.name AS collection_name, f.path
FROM images AS i
JOIN files AS f ON f.image_id = i.image_id AND f.kind = 'original' AND f.state = 'present'
LEFT JOIN collections AS c ON c.collection_id = i.collection_id;
COMMENT ON VIEW local_images IS 'One row per image whose file is on this disk, proven.';
COMMENT ON COLUMN local_images.collection_name IS 'Title of the collection';
COMMENT ON COLUMN local_images.path IS 'Where the file is, relative to the catalog''s folder';
